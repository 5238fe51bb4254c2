"""What the sections start: the service that is called, and the daemon that calls it."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _bench.processes import DURABLE_BUS, environment, first_client, rows, scratch

from durable_bus import Client
from durable_bus.examples import limited_service
from durable_bus.examples.limited_service import Call, Counts

LOOK_EVERY_S = 0.02


@contextmanager
def service(*options: str) -> Iterator[str]:
    """A limited service with these options; its address."""
    command = [sys.executable, "-m", limited_service.__name__, "--failing", "0", *options]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            os.environ["SERVICE_URL"] = process.stdout.readline().strip()  # for workers
            yield os.environ["SERVICE_URL"]
        finally:
            process.kill()


def counts_of(url: str) -> Counts:
    with urllib.request.urlopen(f"{url}/counts") as response:
        counts = Counts(**json.load(response))
    counts.calls = sorted(Call(*call) for call in counts.calls)
    return counts


class Daemon:
    """`durable-bus serve` on a fresh journal, which may be killed and started again."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.journal = folder / "journal.db"
        self.workers = workers
        self.log = folder / "daemon.log"
        self.start()

    def start(self) -> None:
        command = [*DURABLE_BUS, "serve", "_pace.app:bus", "--journal", str(self.journal)]
        with open(self.log, "ab") as stderr:
            self.process = subprocess.Popen(
                [*command, "--workers", str(self.workers)],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )

    def client(self) -> Client:
        return first_client(self.journal, self.process, self.log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def completed(self, buffer_id: str) -> int:
        ((completed,),) = rows(self.journal, f"SELECT completed FROM buffers WHERE buffer_id = '{buffer_id}'")
        return int(completed)


@contextmanager
def daemon(folder: Path, workers: int) -> Iterator[Daemon]:
    with scratch(folder) as own:
        one = Daemon(own, workers)
        try:
            yield one
        finally:
            one.kill()


def sleep_until(time_s: float) -> None:
    time.sleep(max(0.0, time_s - time.monotonic()))
