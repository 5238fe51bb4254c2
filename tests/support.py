"""What the tests of behaviour share: looking at a journal, and at the processes around it.

Everything here waits for facts: rows of the journal, lines of a log, the end of a process. The journal is
read from the test's process, which is never the supervisor's, read-only and by plain SQL, as anybody may.
"""

import hashlib
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import forks

import durable_bus
from durable_bus.wire.process_end import watch_end

TESTS = Path(__file__).resolve().parent
REPOSITORY = Path(durable_bus.__file__).resolve().parent.parent
PATIENCE_S = 120.0
"""How long a fact may take to come, on the slowest machine; a test never depends on it being shorter."""
LOOK_EVERY_S = 0.004
LOOK_AGAIN_S_MAX = 0.02
"""Who waits looks less and less often: a look costs 1 ms of the core that the fact may be waiting for."""


def until(fact: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Wait for a fact; its value, once that is true. Raises AssertionError when it never is."""
    deadline_s = time.monotonic() + patience_s
    pause_s = LOOK_EVERY_S
    while not (value := fact()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"it never came true: {what}")
        time.sleep(pause_s)
        pause_s = min(1.1 * pause_s, LOOK_AGAIN_S_MAX)
    return value


class Facts:
    """A journal, as anybody may look at it."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query; none as long as there is no journal, or no schema in it."""
        if not self.journal.exists():
            return []
        try:
            with closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True, timeout=30)) as connection:
                return connection.execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise

    def dicts(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True, timeout=30)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql, parameters)]

    def value(self, sql: str, *parameters: Any) -> Any:
        """The first column of the first row, None without one."""
        rows = self.rows(sql, *parameters)
        return rows[0][0] if rows else None

    def until(self, sql: str, *parameters: Any, patience_s: float = PATIENCE_S) -> Any:
        """Wait until a query's first value is true."""
        return until(lambda: self.value(sql, *parameters), f"{sql} {parameters}", patience_s)

    def recorded(self, buffer_id: str) -> int:
        return int(self.value("SELECT completed FROM buffers WHERE buffer_id = ?", buffer_id) or 0)

    def until_recorded(self, buffer_id: str, count: int) -> None:
        until(lambda: self.recorded(buffer_id) >= count, f"{count} results of {buffer_id}")

    def failures(self, buffer_id: str) -> list[tuple[Any, ...]]:
        """(index, attempt, kind, message) of every failed attempt, in the order they happened."""
        return self.rows(
            "SELECT item_index, attempt, kind, message FROM failures WHERE buffer_id = ? ORDER BY failed_at",
            buffer_id,
        )

    def assert_whole(self, buffer_id: str, total: int, *, failed: int = 0) -> None:
        """A complete buffer: one result an index, one BufferComplete, and counters that say what the rows
        say.
        """
        (row,) = self.dicts("SELECT * FROM buffers WHERE buffer_id = ?", buffer_id)
        assert (row["state"], row["total"], row["completed"], row["pending"]) == ("complete", total, total, 0)
        assert (row["successful"], row["failed"]) == (total - failed, failed)
        indexes = self.rows(
            "SELECT item_index, success FROM results WHERE buffer_id = ? ORDER BY item_index", buffer_id
        )
        assert [index for index, _ in indexes] == list(range(total))
        assert sum(1 for _, success in indexes if not success) == failed
        complete = self.rows("SELECT message_id FROM messages WHERE kind = 'BufferComplete'")
        assert complete.count((f"{buffer_id}/complete",)) == 1


class Run(NamedTuple):
    """A line of the log that handlers of `apps.plain` and its like write."""

    supervisor_pid: int
    worker_pid: int
    index: int
    word: str


class RunLog:
    """What handlers have done, by what they wrote down when they did it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def runs(self) -> list[Run]:
        if not self.path.exists():
            return []
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return [Run(int(boss), int(worker), int(index), word) for boss, worker, index, word in lines]

    def indexes(self) -> list[int]:
        return [run.index for run in self.runs()]

    def until_started(self, *indexes: int) -> None:
        until(lambda: set(indexes) <= set(self.indexes()), f"items {indexes} have started")

    def until_each_started(self, count: int, *, workers: int) -> None:
        """So many workers have started so many items; which ones depends on who was ready first."""

        def each_has() -> bool:
            started = Counter(run.worker_pid for run in self.runs())
            return sum(1 for items in started.values() if items >= count) >= workers

        until(each_has, f"{workers} workers have started {count} items each")

    def worker_of(self, index: int) -> int:
        """The worker that ran the item last."""
        return [run.worker_pid for run in self.runs() if run.index == index][-1]

    def times(self) -> Counter[int]:
        """How often each item was run."""
        return Counter(self.indexes())


def fingerprint(journal: Path) -> str:
    """The same as before: nobody has written to it."""
    return hashlib.sha256(journal.read_bytes()).hexdigest()


# Processes


def is_alive(pid: int) -> bool:
    """It exists and is more than a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def children_of(pid: int) -> list[int]:
    """Children that live.

    Every process is asked for its parent. The lists of children that the kernel keeps for each thread lack
    some while a thread ends: its children go to another thread, which may have been read already.
    """
    children = []
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            state, parent, *_ = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid and state not in "ZX" and not command_of(int(entry)).startswith(forks.SERVER):
            children.append(int(entry))
    return children


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def workers_of(supervisor_pid: int) -> list[int]:
    return [pid for pid in children_of(supervisor_pid) if "durable_bus.worker" in command_of(pid)]


def until_gone(pid: int, patience_s: float = PATIENCE_S) -> None:
    """Wait for the end of a process, at once when it ends."""
    try:
        end_fd = watch_end(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([end_fd], [], [], patience_s)
        assert ready, f"process {pid} lives on: {command_of(pid)}"
    finally:
        os.close(end_fd)


def kill(pid: int) -> None:
    """SIGKILL, and wait until it is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    until_gone(pid)


# Programs


def environment(**more: str) -> dict[str, str]:
    """For a program that uses durable_bus from this checkout and the apps from beside this file."""
    paths = [str(REPOSITORY), str(TESTS), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def program(
    path: Path, source: str, *arguments: str, cwd: Path | None = None, **more: str
) -> "subprocess.Popen[str]":
    """Write a program and start it, with pipes for its output."""
    path.write_text(source)
    return subprocess.Popen(
        [sys.executable, str(path), *arguments],
        cwd=cwd or path.parent,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def module(name: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start `python -m name`, with pipes for its output."""
    return subprocess.Popen(
        [sys.executable, "-m", name, *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def python(folder: Path, *arguments: str, stdin: str = "") -> str:
    """Run Python in a folder, with this checkout but none of the apps beside it; what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def outcome(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for its end; exit code, stdout, stderr."""
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the program did not end; it said:\n{out}\n{err}") from None
    return process.returncode, out, err


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def buffer_states(facts: Facts) -> dict[str, str]:
    return dict(facts.rows("SELECT buffer_id, state FROM buffers"))
