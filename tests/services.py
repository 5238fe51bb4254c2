"""Daemons as somebody would run them: real processes with a log, signals, restarts; and raw connections to
them.
"""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from msgspec import to_builtins
from support import TESTS, Facts, environment, outcome, until, workers_of

from durable_bus import __version__
from durable_bus.app.finding import parse_spec
from durable_bus.client.client import Client
from durable_bus.errors import DurableBusError
from durable_bus.wire.framing import Frame, FrameReader
from durable_bus.wire.socket_file import connect_daemon


class Service:
    """A daemon that serves `journal`, from `with` on. `options` are those of `DaemonConfig`.

    Its stderr goes to a file, for `log`; `stderr` takes its place. `as_user`: a uid to run it as.
    """

    def __init__(
        self,
        journal: Path,
        app: str = "apps.plain:bus",
        *,
        cwd: Path | None = None,
        stderr: Any = None,
        variables: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.journal = journal
        self.facts = Facts(journal)
        self.log_path = journal.parent / "daemon.log"
        self._cwd = cwd
        self._stderr = stderr
        self._variables = variables or {}
        self._options = {
            "journal": str(journal),
            "app": {**to_builtins(parse_spec(app)), "sys_path": [str(cwd or Path.cwd()), *sys.path]},
            "app_name": app,
            "workers": 2,
            **options,
        }
        self.process: subprocess.Popen[bytes] = self.spawn()

    def spawn(self) -> "subprocess.Popen[bytes]":
        with open(self.log_path, "ab") as log:
            return subprocess.Popen(
                [sys.executable, str(TESTS / "service_process.py"), json.dumps(self._options)],
                cwd=self._cwd,
                env=environment(**self._variables),
                stdin=subprocess.DEVNULL,
                stderr=self._stderr or log,
            )

    def __enter__(self) -> "Service":
        self.until_serving()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        if kind is None and self.process.poll() is None:
            assert self.stop() == 0, self.log()
        self.kill()

    @property
    def pid(self) -> int:
        return self.process.pid

    def workers(self) -> list[int]:
        return workers_of(self.pid)

    def until_serving(self) -> None:
        """Its run is in the journal, and somebody listens."""
        until(lambda: self.process.poll() is not None or self._serves(), f"a daemon serves {self.journal}")
        assert self.process.poll() is None, f"the daemon ended:\n{self.log()}"

    def _serves(self) -> bool:
        newest = "SELECT pid FROM runs ORDER BY run_id DESC LIMIT 1"
        if self.facts.value(newest) != self.pid:
            return False
        with suppress(OSError):
            connect_daemon(self.journal).close()
            return True
        return False

    def until_ready(self, workers: int | None = None) -> None:
        """So many workers have imported the app."""
        wanted = workers or self._options["workers"]
        with Raw(self.journal) as raw:
            until(
                lambda: sum(1 for worker in raw.status()["workers"] if worker["state"] == "ready") >= wanted,
                "its workers are ready",
            )

    def client(self, name: str | None = None) -> Client:
        return Client(self.journal, name=name)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """kill -9, and the same again."""
        self.kill()
        self.process = self.spawn()

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def until_logged(self, pattern: str, times: int = 1) -> None:
        until(lambda: len(re.findall(pattern, self.log())) >= times, f"{pattern!r} in the log:\n{self.log()}")

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory_kib(self, what: str = "VmRSS") -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1])
        raise AssertionError("it has no memory")


def frame_of(header: dict[str, Any] | bytes, *bodies: bytes) -> bytes:
    """A frame with any header, also one that fits no request."""
    parts = (header if isinstance(header, bytes) else json.dumps(header).encode(), *bodies)
    data = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return len(data).to_bytes(4, "big") + data


class Raw:
    """A connection to a daemon below the Client: whole frames, half ones, garbage."""

    def __init__(self, journal: Path) -> None:
        self.socket = connect_daemon(journal, 60)  # a flood connects faster than it is accepted
        self.socket.settimeout(60)
        self._reader: FrameReader[dict[str, Any]] = FrameReader(json.loads)
        self._frames: list[Frame[dict[str, Any]]] = []
        self._asked = 0

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, kind: str, *bodies: bytes, **header: Any) -> dict[str, Any]:
        """Send a request; the next frame that comes."""
        self._asked += 1
        self.write(frame_of({"k": kind, "request": f"{id(self)}-{self._asked}", **header}, *bodies))
        return self.answer()

    def hello(self, **header: Any) -> dict[str, Any]:
        return self.ask("hello", **{"version": __version__, "needs_app": False, **header})

    def status(self) -> dict[str, Any]:
        return self.ask("status")

    def answer(self) -> dict[str, Any]:
        """The next frame. Raises EOFError when the connection ended instead."""
        while not self._frames:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self._frames += self._reader.feed(data)
        return self._frames.pop(0).header

    def until_closed(self) -> list[dict[str, Any]]:
        """What it is told before the daemon closes the connection."""
        told = []
        try:
            while True:
                told.append(self.answer())
        except (EOFError, ConnectionResetError):
            return told


def connected(journal: Path, name: str | None = None) -> Client:
    """A client, as soon as a daemon has greeted it."""

    def greeted() -> Client | None:
        with suppress(DurableBusError):
            return Client(journal, name=name)
        return None

    client = until(greeted, f"a daemon serves {journal}")
    assert isinstance(client, Client)
    return client


def stopped(pid: int) -> None:
    """SIGSTOP a process, and wait until it has stopped."""
    os.kill(pid, signal.SIGSTOP)
    until(
        lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "it has stopped"
    )


NOBODY = 65534


_BECOME_NOBODY = f"""
import os, socket, sys
from durable_bus import errors
from durable_bus.app import finding
from durable_bus.client import client
from durable_bus.supervisor import process as daemon  # while we may still read them
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
"""


def start_as_nobody(source: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start a Python program as another user; only root can."""
    return subprocess.Popen(
        [sys.executable, "-c", _BECOME_NOBODY + source, *arguments],
        env=environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def as_nobody(source: str, *arguments: str) -> str:
    """Run it to its end; what it printed."""
    _, out, err = outcome(start_as_nobody(source, *arguments))
    assert err == ""
    return out


def works(client: Client) -> bool:
    return client.start("echo", ["a", "b"]).wait(60).successful == 2
