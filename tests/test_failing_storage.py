"""A disk that fails: the supervisor says so and ends, and nothing is lost.

The supervisor may write no longer file than it has (RLIMIT_FSIZE). SQLite makes of that what it makes of a broken disk: SQLITE_IOERR_WRITE.
"""

import resource
from pathlib import Path

import pytest
from apps import plain
from support import Facts, until

from durable_bus.client import Client
from durable_bus.errors import StorageFailed

FAILED = r"the storage of the journal .*journal\.db failed: disk I/O error \(SQLITE_IOERR_WRITE\)"
BIG = "x" * (4 << 20)
LARGE = "y" * (100 << 10)
"""Fits into the log, and not into the room that the file has left."""


def log_bytes(journal: Path) -> int:
    return Path(f"{journal}-wal").stat().st_size


def break_disk(client: Client, pid: int, journal: Path) -> int:
    """From here on the journal's file cannot become longer; how long it is."""
    client.start("echo", [BIG], buffer_id="before").wait(60)
    until(lambda: log_bytes(journal) == 0, "the log was brought home and emptied")
    size_bytes = journal.stat().st_size
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, size_bytes))
    return size_bytes


def test_the_client_of_an_embedded_supervisor_is_told_of_a_commit_that_failed(
    journal: Path, facts: Facts
) -> None:
    """It was told only that its supervisor was lost, and to run the same again."""
    with plain.bus.running(journal=journal, workers=1) as client:
        pid = client.supervisor_pid
        assert pid is not None
        break_disk(client, pid, journal)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (len(LARGE) // 2, len(LARGE) // 2))
        with pytest.raises(StorageFailed, match=FAILED):
            client.start("echo", [LARGE], buffer_id="b")
    with plain.bus.running(journal=journal, workers=1) as client:
        assert client.start("echo", [LARGE], buffer_id="b").wait(60).successful == 1
    facts.assert_whole("b", 1)
