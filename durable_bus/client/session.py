"""A client's session with its supervisor: one connection, made anew when a daemon goes and comes back, or a
supervisor of one's own, which is ended with it.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from durable_bus import __version__, errors
from durable_bus.client.connection import Connection
from durable_bus.client.unreachable import is_silent, nobody_serves, why_unreachable
from durable_bus.errors import JournalError, JournalUnreachable, SupervisorLost, TimedOut, UsageError
from durable_bus.payloads.settings import ValueForms
from durable_bus.wire import protocol
from durable_bus.wire.ids import new_id
from durable_bus.wire.socket_file import connect_daemon, journal_file

if TYPE_CHECKING:
    import subprocess

__all__ = ["Session"]

A = TypeVar("A", bound=protocol.Answer)

GREETING_S = 10.0
"""How long a daemon that is there may take to greet a client."""
GREETING_WITH_NAME_S = 60.0
"""The same for a client with a name, which must not be a listener's: a worker may have to import the app."""
RECONNECT_S = 60.0
"""How long a client waits for a daemon to come back."""
LAST_WORDS_S = 5.0
"""How long a supervisor of our own that has left us may take to end by itself."""
_RECONNECT_EVERY_S = 0.1
_PASSING = (SupervisorLost, errors.LimitExceeded, errors.StorageFull)
"""What may keep a client from its daemon for a while: it tries again."""
_LOOK_FOR_RESULTS_S = 0.02
_LOOK_FOR_END_S = 0.25
"""How often the journal is looked at for a buffer's end, of which the supervisor tells us sooner."""


class Session:
    """`connection` is today's; any thread may find it lost and have it made anew."""

    def __init__(
        self,
        journal: Path,
        name: str | None,
        connected: socket.socket,
        process: "subprocess.Popen[bytes] | None" = None,
    ) -> None:
        """`process`: a supervisor of our own, at the other end of `connected`; None: a daemon's client.

        Raises what the greeting was refused with, or RuntimeError when there is no room for a thread; then
        the connection and the process are ended.
        """
        self._journal = journal
        self.path = Path(os.path.abspath(journal))
        """The same for good: this process may change its folder."""
        self.process = process
        self._name = name
        self._reconnect_lock = threading.Lock()
        try:
            self.connection = self._begin(connected)
        except BaseException:
            if process is not None:
                process.kill()
                _wait_for(process)
            raise
        try:
            welcome = self._greeted()
        except BaseException:
            if process is not None:
                process.terminate()  # it answers no frame of ours before a worker has imported the app
            self.close()
            raise
        self.listeners = welcome.listeners
        self._forms = welcome.forms

    def forms(self) -> ValueForms:
        """How the app writes values whose type does not say it. Where no worker could tell when we were
        greeted, this waits until one can. Raises BusNotImportable or EngineError.
        """
        if self._forms is None:
            self._forms = self.ask(protocol.AskForms(new_id()), protocol.AppForms).forms
        return self._forms

    @classmethod
    def with_daemon(cls, journal: Path, name: str | None) -> "Session":
        """With the daemon that serves a journal. Raises JournalUnreachable when none does."""
        try:
            connected = connect_daemon(journal, GREETING_S)
        except OSError as error:
            raise JournalUnreachable(why_unreachable(journal, error)) from error
        return cls(journal, name, connected)

    def after_fork(self) -> None:
        """In a forked child: with a daemon it begins anew when something is asked. A supervisor of our own
        has one client, the parent.
        """
        self._reconnect_lock = threading.Lock()
        if self.process is None:
            self.connection.after_fork(SupervisorLost())
            return
        self.process.returncode = 0  # it is no child of this process, which need not wait for it
        self.process = None
        self.connection.after_fork(
            UsageError(
                "this process was forked from the one whose client this is, and only that one can ask its "
                "supervisor; here, results can be read"
            )
        )

    def _begin(self, connected: socket.socket) -> Connection:
        own = self.process is not None
        meant = None if own else journal_file(self._journal)
        hello = protocol.Hello(new_id(), version=__version__, name=self._name, needs_app=own, journal=meant)
        return Connection(connected, hello)

    def _greeted(self) -> protocol.Welcome:
        """Raises JournalUnreachable when a daemon takes too long: it is stopped, or something hangs; when it
        serves another journal, which was given the same socket; and when it has ended before it answers:
        between fork and exec a child of a killed daemon still holds its socket, where connecting succeeds.
        """
        if self.process is not None:
            try:
                return self.connection.welcome()
            except SupervisorLost as error:
                raise _died_at_start(self.process, error) from None
        timeout_s = GREETING_S if self._name is None else GREETING_WITH_NAME_S
        try:
            return self.connection.welcome(timeout_s)
        except TimedOut:
            silent = is_silent(self._journal, f"has not answered within {timeout_s:g} s")
            raise JournalUnreachable(silent) from None
        except JournalUnreachable as error:
            raise JournalUnreachable(nobody_serves(self._journal, str(error))) from error
        except SupervisorLost as error:
            raise JournalUnreachable(nobody_serves(self._journal, "it ended before it answered")) from error

    def close(self, *, at_once: bool = False) -> None:
        """A supervisor of our own finishes what runs, gives the rest back, and ends; or is killed.

        Raises StorageFailed, or another JournalError, with which it has ended instead.
        """
        failed = None
        if self.process is not None and self.process.poll() is None:
            try:
                asked = not at_once and self.connection.lost is None
                if asked:
                    self.connection.say(protocol.Stop(new_id()))
                elif at_once:
                    self.process.kill()
                else:
                    self.process.terminate()  # the same, for one that cannot hear us
                _wait_for(self.process)
                if asked and self.process.returncode:
                    failed = self.connection.last_words(LAST_WORDS_S)
            except BaseException:
                self.process.kill()
                _wait_for(self.process)
                raise
        self.connection.close()
        if isinstance(failed, JournalError):
            raise failed

    def ask(self, request: protocol.Request, expected: type[A]) -> A:
        """A request and its answer; sent again, with the same id, when the daemon was restarted meanwhile."""
        while True:
            connection = self.connection
            try:
                connection.send(request)
                answer = connection.answer(request.request)
                assert isinstance(answer, expected)
                return answer
            except SupervisorLost:
                self.reconnect(connection)
            finally:
                connection.forget(request.request)

    def wait_until(self, done: Callable[[], bool], buffer_id: str | None, deadline_s: float | None) -> None:
        """Wait for a fact in the journal until `deadline_s` by the monotonic clock (None: for ever); told of
        the end of `buffer_id`, look at once. Raises TimedOut, and SupervisorLost when a supervisor of our own
        has ended before. A daemon may go: the journal is what is followed.
        """
        while not done():
            connection = self.connection
            left_s = _LOOK_FOR_RESULTS_S if buffer_id is None else _LOOK_FOR_END_S
            if connection.lost is not None:
                if self.process is not None and not done():
                    raise connection.lost
                left_s = _RECONNECT_EVERY_S
            if deadline_s is not None:
                left_s = min(left_s, deadline_s - time.monotonic())
                if left_s <= 0:
                    raise TimedOut
            if connection.lost is None:
                connection.wait_for_end(buffer_id, left_s)
            else:
                time.sleep(left_s)

    def reconnect(self, lost: Connection, deadline_s: float | None = None) -> Connection:
        """The connection in the place of one that was found lost, as soon as a daemon is back.

        Raises what that one has ended with, when waiting cannot help: a supervisor of our own has ended, or
        the daemon is of another version. Else TimedOut at `deadline_s`, monotonic, or SupervisorLost after
        RECONNECT_S, whichever comes first.
        """
        give_up_s = time.monotonic() + RECONNECT_S
        until_s = give_up_s if deadline_s is None else min(deadline_s, give_up_s)
        with self._reconnect_lock:
            if self.connection is not lost and self.connection.lost is None:
                return self.connection  # another thread has been here
            reason = self.connection.lost or SupervisorLost()
            if self.process is not None or not isinstance(reason, _PASSING):
                raise reason
            while True:
                try:
                    return self._connect_again(until_s)
                except (OSError, TimedOut, *_PASSING):
                    if time.monotonic() >= until_s:
                        break
                    time.sleep(_RECONNECT_EVERY_S)
        if until_s < give_up_s:
            raise TimedOut
        raise SupervisorLost(f"no daemon has come back within {RECONNECT_S:g} s")

    def _connect_again(self, until_s: float) -> Connection:
        """Raises OSError when nobody listens, SupervisorLost when who did has ended before it greeted us."""
        connection = self._begin(connect_daemon(self.path))
        try:
            connection.welcome(max(0.0, until_s - time.monotonic()))
        except BaseException:
            connection.close()
            raise
        self.connection.close()
        self.connection = connection
        return connection


def _wait_for(process: "subprocess.Popen[bytes]") -> None:
    """Until it has ended. Not `process.wait()`: Ctrl-C within `poll` can leave Popen's lock held for good."""
    with contextlib.suppress(ChildProcessError):  # its end was seen before
        _, status = os.waitpid(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)


def _died_at_start(process: "subprocess.Popen[bytes]", lost: SupervisorLost) -> SupervisorLost:
    """Its connection ends before it has said why, on stderr: let it. Run again, it would crash again."""
    import subprocess  # 3 ms, which a daemon's client does not pay

    with contextlib.suppress(subprocess.TimeoutExpired):
        code = process.wait(LAST_WORDS_S)
        if code > 0:
            return SupervisorLost(
                f"the supervisor crashed at its start (exit code {code}); it said why above"
            )
    return lost
