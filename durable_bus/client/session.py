"""A client's contact with its supervisor: one connection, made anew when a daemon goes and comes back, or a
supervisor of one's own, which is ended with it.
"""

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from durable_bus.client.connection import Link
from durable_bus.client.unreachable import nobody_serves, process_of, why_unreachable
from durable_bus.errors import (
    JournalError,
    JournalUnreachable,
    LimitExceeded,
    StorageFull,
    SupervisorLost,
    TimedOut,
)
from durable_bus.wire.ids import new_id
from durable_bus.wire.socket_file import connect_daemon, journal_file

__all__ = ["Contact"]

GREETING_S = 10.0
"""How long a daemon that is there may take to greet a client."""
GREETING_WITH_NAME_S = 60.0
"""The same for a client with a name, which must not be a listener's: a worker may have to import the app."""
RECONNECT_S = 60.0
"""How long a client waits for a daemon to come back."""
LAST_WORDS_S = 5.0
"""How long a supervisor of our own that has left us may take to end by itself."""
_RECONNECT_EVERY_S = 0.1
_PASSING = (SupervisorLost, LimitExceeded, StorageFull)
"""What may keep a client from its daemon for a while: it tries again."""
_POLL_RESULTS_S = 0.02
_POLL_S = 0.25


class Contact:
    """`link` is today's connection; any thread may find it lost and have it made anew."""

    def __init__(
        self,
        journal: Path,
        connection: socket.socket,
        process: "subprocess.Popen[bytes] | None",
        name: str | None,
    ) -> None:
        """`process`: a supervisor of our own, at the other end of `connection`; None: a daemon's client.

        Raises what the greeting was refused with; then the connection and the process are ended.
        """
        self._journal = journal
        """As it was given, for messages."""
        self._path = Path(os.path.abspath(journal))
        """The same for good: this process may change its folder."""
        self.process = process
        self._name = name
        self._reconnect_lock = threading.Lock()
        self.link = self._new_link(connection)
        try:
            self.listeners = self._greeted(self.link)
            """The table of listeners as far as the supervisor knew it when it greeted us."""
        except BaseException:
            if process is not None:
                process.terminate()  # it answers no frame of ours before a worker has imported the app
            self.close()
            raise

    @classmethod
    def with_daemon(cls, journal: Path, name: str | None) -> "Contact":
        """With the daemon that serves a journal. Raises JournalUnreachable when none does."""
        try:
            connection = connect_daemon(journal, GREETING_S)
        except OSError as error:
            raise JournalUnreachable(why_unreachable(journal, error)) from error
        return cls(journal, connection, None, name)

    def _new_link(self, connection: socket.socket) -> Link:
        own = self.process is not None
        meant = None if own else journal_file(self._journal)
        return Link(connection, name=self._name, needs_app=own, journal=meant)

    def _greeted(self, link: Link) -> dict[str, Any]:
        """Raises JournalUnreachable when a daemon takes too long: it is stopped, or something hangs; when it
        serves another journal, which was given the same socket; and when it has ended before it answers:
        between fork and exec a child of a killed daemon still holds its socket, where connecting succeeds.
        """
        timeout_s = GREETING_S if self._name is None else GREETING_WITH_NAME_S
        try:
            return dict(link.welcome(None if self.process is not None else timeout_s)["listeners"])
        except TimedOut:
            raise JournalUnreachable(
                f"the daemon of {self._journal} ({process_of(self._journal)}) has not answered within "
                f"{timeout_s:g} s: it is stopped, or very busy"
            ) from None
        except JournalUnreachable as error:
            if self.process is not None:
                raise  # our own supervisor's, which cannot open what it is to serve
            raise JournalUnreachable(nobody_serves(self._journal, str(error))) from error
        except SupervisorLost as error:
            if self.process is not None:
                raise _died_at_start(self.process, error) from None
            raise JournalUnreachable(nobody_serves(self._journal, "it ended before it answered")) from error

    def close(self, *, at_once: bool = False) -> None:
        """A supervisor of our own finishes what runs, gives the rest back, and ends; or is killed.

        Raises StorageFailed, or another JournalError, with which it has ended instead.
        """
        failed = None
        if self.process is not None and self.process.poll() is None:
            try:
                asked = not at_once and self.link.lost is None
                if asked:
                    self.link.say({"k": "stop"})
                elif at_once:
                    self.process.kill()
                else:
                    self.process.terminate()  # the same, for one that cannot hear us
                _wait_for(self.process)
                if asked and self.process.returncode:
                    failed = self.link.last_words(LAST_WORDS_S)
            except BaseException:
                self.process.kill()
                _wait_for(self.process)
                raise
        self.link.close()
        if isinstance(failed, JournalError):
            raise failed

    # Asking

    def request(self, header: dict[str, Any]) -> dict[str, Any]:
        """One request and its answer; sent again, with the same id, when the daemon was restarted
        meanwhile.
        """
        header = {**header, "request": new_id()}
        while True:
            link = self.link
            try:
                link.send(header)
                return link.answer(header["request"])
            except SupervisorLost:
                self.reconnect(link)
            finally:
                link.forget(header["request"])

    def wait_until(self, done: Callable[[], bool], buffer_id: str | None, deadline_s: float | None) -> None:
        """Wait for a fact in the journal, woken early by the supervisor's word. Raises TimedOut, and
        SupervisorLost when a supervisor of our own has ended before. A daemon may go and come back: the
        journal is what is followed.
        """
        while not done():
            link = self.link
            left_s = _POLL_S if buffer_id is not None else _POLL_RESULTS_S
            if link.lost is not None:
                if self.process is not None and not done():
                    raise link.lost
                left_s = _RECONNECT_EVERY_S
            elif buffer_id is not None:
                link.watch(buffer_id)
            if deadline_s is not None:
                left_s = min(left_s, deadline_s - time.monotonic())
                if left_s <= 0:
                    raise TimedOut
            if link.lost is None:
                with link.changed:
                    link.changed.wait_for(partial(link.says_ended, buffer_id), left_s)
            elif not self._relink(link):
                time.sleep(left_s)
        if buffer_id is not None:
            self.link.unwatch(buffer_id)

    # The daemon has gone

    def reconnect(self, lost_link: Link | None = None, timeout: float | None = None) -> Link:
        """Wait until a daemon is back; the link to it. `lost_link`: what was found broken.

        Raises SupervisorLost after `timeout` seconds (None: RECONNECT_S), at once for a supervisor of our
        own.
        """
        timeout_s = RECONNECT_S if timeout is None else timeout
        with self._reconnect_lock:
            if lost_link is not None and lost_link is not self.link and self.link.lost is None:
                return self.link  # another thread has been here
            lost = self.link.lost
            if self.process is not None:
                raise lost or SupervisorLost()
            if lost is not None and not isinstance(lost, _PASSING):
                raise lost
            deadline_s = time.monotonic() + timeout_s
            while True:
                try:
                    self._connect_again(deadline_s)
                    return self.link
                except (OSError, TimedOut, *_PASSING):
                    if time.monotonic() >= deadline_s:
                        raise SupervisorLost(f"no daemon has come back within {timeout_s:g} s") from None
                    time.sleep(_RECONNECT_EVERY_S)

    def reconnect_within(self, link: Link, deadline_s: float | None, otherwise: str) -> None:
        """Raises TimedOut, saying `otherwise`, when no daemon comes back before a deadline."""
        if deadline_s is None:
            self.reconnect(link)
            return
        try:
            self.reconnect(link, min(RECONNECT_S, max(0.0, deadline_s - time.monotonic())))
        except SupervisorLost:
            if self.process is not None or time.monotonic() < deadline_s:
                raise
            raise TimedOut(otherwise) from None

    def _connect_again(self, deadline_s: float) -> None:
        """Raises OSError when nobody listens, SupervisorLost when who did has ended before it greeted us."""
        link = self._new_link(connect_daemon(self._path))
        try:
            link.welcome(max(0.0, deadline_s - time.monotonic()))
        except BaseException:
            link.close()
            raise
        self.link.close()
        self.link = link

    def _relink(self, lost_link: Link) -> bool:
        """Connect again, if somebody listens now, without waiting for a welcome."""
        with self._reconnect_lock:
            if self.process is None and self.link is lost_link:
                if not isinstance(lost_link.lost, _PASSING):
                    return False  # such as another version: only the journal tells us now
                try:
                    self.link = self._new_link(connect_daemon(self._path))
                except OSError:
                    return False
                lost_link.close()
        return True


def _wait_for(process: "subprocess.Popen[bytes]") -> None:
    """Until it has ended. Not `process.wait()`: Ctrl-C within `poll` can leave Popen's lock held for good."""
    with contextlib.suppress(ChildProcessError):  # its end was seen before
        _, status = os.waitpid(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)


def _died_at_start(process: "subprocess.Popen[bytes]", lost: SupervisorLost) -> SupervisorLost:
    """Its connection ends before it has said why, on stderr: let it. Run again, it would crash again."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = process.wait(LAST_WORDS_S)
        if code > 0:
            return SupervisorLost(
                f"the supervisor crashed at its start (exit code {code}); it said why above"
            )
    return lost
