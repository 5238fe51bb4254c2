"""Daemons for tests that need more than one client, or a client that lives longer than its supervisor."""

import json
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from msgspec import to_builtins
from support import TESTS, environment, until

from durable_bus.app.finding import parse_spec
from durable_bus.client.client import Client
from durable_bus.errors import JournalUnreachable, SupervisorLost
from durable_bus.wire.socket_file import connect_socket, socket_path


class Daemon:
    """A daemon process, from `with` on. `dies`: it kills itself before or after its commit of that number.

    `states`: a file to which it writes every change of state that a commit makes.
    """

    def __init__(
        self,
        journal: Path,
        app: str,
        *,
        workers: int = 2,
        dies: tuple[str, int] = ("after", 0),
        states: Path | None = None,
        **variables: str,
    ) -> None:
        options = {
            "journal": str(journal),
            "app": to_builtins(parse_spec(app)),
            "app_name": app,
            "workers": workers,
            "verbose": False,
            "when": dies[0],
            "die_at": dies[1],
            "states": str(states or ""),
        }
        self.journal = journal
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "watched_daemon.py"), json.dumps(options)],
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
        )

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        self.kill()

    def until_listening(self) -> None:
        until(self.listens_or_ended, f"a daemon serves {self.journal}")

    def listens_or_ended(self) -> bool:
        if self.process.poll() is not None:
            return True
        with suppress(OSError):
            connect_socket(socket_path(self.journal)).close()
            return True
        return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Drain and end, unless it was killed, or has just started and takes no signals yet."""
        self.until_listening()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) in (0, -signal.SIGKILL, -signal.SIGTERM)


class Succession:
    """Daemons on one journal: as soon as one has died the next one starts. `deaths`: at which commit each of
    them kills itself, `before` or `after` it; when there are no more, the last one lives.
    """

    def __init__(self, journal: Path, app: str, deaths: list[int], when: str) -> None:
        self.journal = journal
        self.app = app
        self.deaths = list(deaths)
        self.when = when
        self.killed = 0
        self._ending = threading.Event()
        self.current = self._next()
        self._keeper = threading.Thread(target=self._keep)
        self._keeper.start()

    def _next(self) -> Daemon:
        die_at = self.deaths.pop(0) if self.deaths else 0
        return Daemon(self.journal, self.app, workers=1, dies=(self.when, die_at))

    def _keep(self) -> None:
        while True:
            self.current.process.wait()
            if self._ending.is_set():
                return
            self.killed += 1
            self.current = self._next()

    def __enter__(self) -> "Succession":
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        stopped: Daemon | None = None
        while self._keeper.is_alive():  # it may just be starting one more
            if self.current is not stopped:
                stopped = self.current
                stopped.stop()
            self._keeper.join(0.05)


def client_of(journal: Path, name: str | None = None) -> Client:
    """A client, as soon as a daemon serves the journal and has greeted it."""

    def connected() -> Client | None:
        with suppress(JournalUnreachable, SupervisorLost):
            return Client(journal, name=name)
        return None

    client = until(connected, f"a daemon serves {journal}")
    assert isinstance(client, Client)
    return client
