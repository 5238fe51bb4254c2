"""The command line as a user has it: a process with arguments, an exit code, stdout and stderr."""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import forks
from support import PATIENCE_S, children_of, command_of, environment, until


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr."""
        assert self.err.endswith("\n"), self.err
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("durable-bus: "), self.err
        return self.err.removeprefix("durable-bus: ").rstrip("\n")


# Root may write everywhere by two capabilities. Dropped from the bounding set, no program gets them any more.
_WITHOUT_POWER = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def durable_bus(
    *arguments: object,
    cwd: Path,
    stdin: bytes = b"",
    almighty: bool = True,
    patience_s: float = PATIENCE_S,
    **variables: str,
) -> Ran:
    """Run a command to its end. `almighty=False`: permissions hold, also for root.

    It is forked, also where tests want processes that really start, as those that it starts then do. Python
    itself is started for it only where that matters: it reads variables when it starts, but not ours.
    """
    command = ["-m", "durable_bus", *map(str, arguments)]
    reads_at_start = not almighty or not all(name.startswith("DURABLE_BUS_") for name in variables)
    with forks.in_this_thread(not reads_at_start):
        done = subprocess.run(
            [sys.executable, *([] if almighty else ["-c", _WITHOUT_POWER]), *command],
            cwd=cwd,
            env=environment(**variables),
            input=stdin,
            capture_output=True,
            timeout=patience_s,
            check=False,
        )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


class Command:
    """A command that runs. It is a process group of its own, as a shell would make it."""

    def __init__(self, *arguments: object, cwd: Path, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "durable_bus", *map(str, arguments)],
            cwd=cwd,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        self.pid = self.process.pid
        atexit.register(self._end)  # nothing outlives the tests, also when one has failed

    def _end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)

    def supervisor(self) -> int:
        """The pid of the supervisor it started, as soon as there is one."""
        is_one = "durable_bus.supervisor"
        found = until(
            lambda: [pid for pid in children_of(self.pid) if is_one in command_of(pid)], "a supervisor"
        )
        return int(found[0])

    def until_said(self, what: str) -> str:
        """The next line on stderr that says this. What was said before it is not given again."""
        assert self.process.stderr is not None
        fd = self.process.stderr.fileno()
        os.set_blocking(fd, False)
        said = bytearray()

        def line() -> str | None:
            with contextlib.suppress(BlockingIOError):
                while not said.endswith(b"\n"):
                    byte = os.read(fd, 1)
                    assert byte, f"the command ended without saying {what!r}"
                    said.extend(byte)
                line = said.decode()
                said.clear()
                return line if what in line else None
            return None

        return str(until(line, f"the command says {what!r}"))

    def ctrl_c(self) -> None:
        """SIGINT to the whole foreground group, as a terminal sends it."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> Ran:
        """kill -9 of the command alone, and wait for everything that held its output."""
        self.process.kill()
        return self.ended()

    def ended(self) -> Ran:
        try:
            out, err = self.process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            out, err = self.process.communicate()
            raise AssertionError(f"the command did not end; it said:\n{out!r}\n{err!r}") from None
        return Ran(self.process.returncode, out.decode(), err.decode())


def write_items(folder: Path, *items: object, name: str = "items.txt") -> Path:
    """A file with an item a line."""
    path = folder / name
    path.write_text("".join(f"{item}\n" for item in items))
    return path


def command(*arguments: str) -> tuple[int, str, str]:
    """`durable-bus`, to its end: exit code, stdout, stderr."""
    return durable_bus(*arguments, cwd=Path.cwd())


def status(journal: Path) -> dict[str, Any]:
    code, out, err = command("status", "--json", "--journal", str(journal))
    assert code == 0, err
    told: dict[str, Any] = json.loads(out)
    return told
