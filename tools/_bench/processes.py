"""What the sections start: a bus with its own supervisor, a daemon, commands; and what these take."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

from _bench import ROOT, TOOLS
from _bench.app import bus, items_of
from durable_bus import Client
from durable_bus.errors import DurableBusError

DAEMON_PATIENCE_S = 60.0


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder of our own in `folder`, which goes with us. Ctrl-C while it is made or removed would leave
    it.
    """
    with ctrl_c_postponed():
        own = tempfile.TemporaryDirectory(dir=folder, prefix="bench-")
    try:
        yield Path(own.name)
    finally:
        with ctrl_c_postponed():
            own.cleanup()


@contextmanager
def ctrl_c_postponed() -> Iterator[None]:
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            raise KeyboardInterrupt


@contextmanager
def durable(folder: Path, workers: int, durability: str = "full") -> Iterator[Any]:
    """A client, with a supervisor of its own, of a fresh journal whose workers are up."""
    with scratch(folder) as own:
        journal = own / "journal.db"
        with bus.running(journal=journal, workers=workers, durability=durability) as client:
            warm_up(client, workers)
            yield client


def warm_up(client: Any, workers: int) -> None:
    """Small buffers until every worker has answered one item at least."""
    items = items_of("query", 8 * workers)
    while True:
        client.start("warm", items).wait()
        client.start("echo", items).wait()
        (seen,) = rows(client.journal, "SELECT count(DISTINCT worker_pid) FROM results")[0]
        if seen >= workers:
            return


class Daemon:
    """`durable-bus serve` with an app of the tools, which can be killed and started again."""

    def __init__(self, app: str, journal: Path, *options: str) -> None:
        self.journal = journal
        self._command = [*DURABLE_BUS, "serve", app, "--journal", str(journal), *options]
        self._log = journal.with_suffix(".log")
        self.start()

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                self._command, env=environment(), stdin=subprocess.DEVNULL, stderr=log
            )

    def client(self) -> Client:
        """As soon as it greets one. Raises RuntimeError when it never does."""
        deadline_s = time.monotonic() + DAEMON_PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline_s:
            try:
                return Client(self.journal)
            except DurableBusError:
                time.sleep(0.05)
        raise RuntimeError(f"no daemon: {self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@contextmanager
def daemon(folder: Path, workers: int) -> Iterator[tuple[Path, int]]:
    """A daemon on a fresh journal, its workers up; the journal and its pid."""
    with scratch(folder) as own:
        one = Daemon("_bench.app:bus", own / "journal.db", "--workers", str(workers))
        try:
            with one.client() as client:
                warm_up(client, workers)
            yield one.journal, one.process.pid
        finally:
            one.stop()


def rows(journal: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=60)) as connection:
        return connection.execute(sql).fetchall()


def peak_mb(pid: int) -> float:
    """VmHWM, the most memory a process has had resident, in MB of 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(f"no VmHWM of process {pid}")


def cpu_s(pid: int) -> float:
    """Processor time that a process has taken so far, which a busy machine stretches less than the wall's."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def keyboard_shut() -> Iterator[None]:
    """Processes started here never see Ctrl-C, which goes to the whole foreground group: we end them."""
    resource_tracker.ensure_running()  # multiprocessing's, whose first start would unblock the signal
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# ---- commands

DURABLE_BUS = (sys.executable, "-m", "durable_bus")


def environment() -> dict[str, str]:
    """For a process that imports durable_bus from this checkout, and the app that stands here."""
    paths = [str(ROOT), str(TOOLS), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


class Ran(NamedTuple):
    wall_s: float
    peak_mb: float
    exit_code: int


# The kernel carries the peak of a process over fork and exec to what it starts: a command started from here
# would seem to need as much memory as this process has had. A bare interpreter in between has had little.
_TIMED = """
import json, os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
begun_s = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[
    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, used = os.wait4(pid, 0)
wall_s = time.perf_counter() - begun_s
print(json.dumps([wall_s, used.ru_maxrss * 1024 / 1e6, os.waitstatus_to_exitcode(status)]))
"""


def run_command(*command: str) -> Ran:
    """Run it with its output to /dev/null: seconds, and its peak resident memory in MB of 10^6 bytes."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _TIMED, *command],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return Ran(*json.loads(done.stdout))
