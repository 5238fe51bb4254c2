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

from _bench.processes import Daemon, environment, rows, scratch

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


@contextmanager
def daemon(folder: Path, workers: int) -> Iterator[Daemon]:
    with scratch(folder) as own:
        one = Daemon("_pace.app:bus", own / "journal.db", "--workers", str(workers))
        try:
            yield one
        finally:
            one.kill()


def completed(journal: Path, buffer_id: str) -> int:
    ((count,),) = rows(journal, f"SELECT completed FROM buffers WHERE buffer_id = '{buffer_id}'")
    return int(count)


def sleep_until(time_s: float) -> None:
    time.sleep(max(0.0, time_s - time.monotonic()))
