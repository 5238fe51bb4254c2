"""A Dask cluster on this machine: a scheduler and workers, each a process of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from _bench.processes import environment
from _soak.processes import children_of

PATIENCE_S = 60.0


class Cluster:
    """A scheduler at one address, which can be killed and started again, and workers with a nanny each, which
    starts one again that was killed.
    """

    def __init__(self, workers: int, folder: Path) -> None:
        self._log = os.open(folder / "cluster.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._folder = folder
        self._count = workers
        self._start_all()

    def _start_all(self) -> None:
        self.scheduler = self._start_scheduler()
        self.nannies = [
            self._start("distributed.cli.dask_worker", self.address, "--nthreads", "1", "--no-dashboard")
            for _ in range(self._count)
        ]

    def _start(self, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**environment(), "DASK_TEMPORARY_DIRECTORY": str(self._folder)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def _start_scheduler(self) -> "subprocess.Popen[bytes]":
        return self._start(
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--no-dashboard",
        )

    def workers(self) -> list[int]:
        """The pids of the processes that run something now."""
        return [pid for nanny in self.nannies for pid in children_of(nanny.pid) if is_worker(pid)]

    def until_ready(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while len(self.workers()) < len(self.nannies):
            if time.monotonic() > deadline_s:
                raise RuntimeError("the cluster does not start: see cluster.log")
            time.sleep(0.1)

    def restart_scheduler(self) -> None:
        """Kill it, and start another one at its address. Its workers end with it, sooner or later: others are
        started.
        """
        self._kill_all()
        self._start_all()

    def memory_pids(self) -> dict[str, int]:
        named = {f"dask worker {number}": pid for number, pid in enumerate(self.workers())}
        return {"dask scheduler": self.scheduler.pid, **named}

    def _kill_all(self) -> None:
        for process in [self.scheduler, *self.nannies]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        self._kill_all()
        os.close(self._log)


def is_worker(pid: int) -> bool:
    """Not the nanny's resource tracker."""
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
