"""The service of the paced example, for tests: started, and asked what it has counted."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from support import environment

from durable_bus.examples.limited_service import Call, Counts


@contextmanager
def served(*options: str) -> Iterator[str]:
    """`limited_service` with these options; its address."""
    with subprocess.Popen(
        [sys.executable, "-m", "durable_bus.examples.limited_service", "--port", "0", *options],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def counts_of(url: str) -> Counts:
    """What it has counted until now."""
    with urllib.request.urlopen(f"{url}/counts") as response:
        counts = Counts(**json.load(response))
    counts.calls = [Call(*call) for call in counts.calls]
    return counts
