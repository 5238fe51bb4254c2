"""A disk that fails when the log is brought home: the supervisor says so and ends, and nothing is lost.

Commits go into the log and still succeed; the file itself cannot grow any more, because the supervisor may
write no longer one (RLIMIT_FSIZE). SQLite makes of that what it makes of a broken disk: SQLITE_IOERR_WRITE.
"""

import resource
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from apps import plain
from services import Raw, Service
from support import Facts, is_alive, until

from durable_bus.client.client import Client
from durable_bus.errors import StorageFailed

pytestmark = pytest.mark.real_start

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


@pytest.mark.slow
def test_a_daemon_that_cannot_bring_its_log_home_ends_and_says_why(journal: Path, facts: Facts) -> None:
    with Service(journal, workers=1) as service:
        with service.client() as client:
            break_disk(client, service.pid, journal)
            assert client.start("echo", [LARGE], buffer_id="b").wait(60).successful == 1
            assert service.process.wait(60) == 5
        service.until_logged(FAILED)
        facts.assert_whole("b", 1)
        service.process = service.spawn()  # the disk is whole again
        service.until_serving()
        until(lambda: log_bytes(journal) == 0, "the log was brought home")
    facts.assert_whole("b", 1)
    facts.assert_whole("before", 1)
    assert facts.rows("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.slow
def test_a_daemon_that_is_never_idle_says_it_too(journal: Path, facts: Facts) -> None:
    """SQLite brings the log home in passing, and tells nobody when it cannot: the log grew without end."""
    with Service(journal, workers=1, housekeeping_s=0.001) as service:
        with service.client() as client:
            size_bytes = break_disk(client, service.pid, journal)
        acknowledged = []
        with Raw(journal) as raw, suppress(EOFError, OSError):
            raw.hello()
            while service.process.poll() is None:
                buffer_id = f"b{len(acknowledged)}"
                start = {
                    "buffer_id": buffer_id,
                    "target": "echo",
                    "collect": False,
                    "digest": "d",
                }
                items = {"count": 1, "forms": "0"}
                told = raw.ask("submit", LARGE.encode() + b"\0", **start, **items)
                while told["k"] != "opened":  # an earlier one has ended
                    told = raw.answer()
                acknowledged.append(buffer_id)
        assert service.process.wait(60) == 5
        service.until_logged(FAILED)
        assert log_bytes(journal) < size_bytes  # else it has ended because the log could not grow any more
        rows = facts.rows("SELECT buffer_id FROM buffers")
        assert {buffer_id for (buffer_id,) in rows} >= set(acknowledged)


@pytest.mark.slow
def test_the_client_of_an_embedded_supervisor_is_told(journal: Path, facts: Facts) -> None:
    with plain.bus.running(journal=journal, workers=1) as client:
        pid = client.supervisor_pid
        assert pid is not None
        break_disk(client, pid, journal)
        assert client.start("echo", [LARGE], buffer_id="b").wait(60).successful == 1
        until(lambda: not is_alive(pid), "its supervisor has ended")
        with pytest.raises(StorageFailed, match=FAILED):
            client.start("echo", ["more"])
    facts.assert_whole("b", 1)


@pytest.mark.slow
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


@pytest.mark.slow
def test_who_leaves_before_the_log_is_brought_home_is_told_too(journal: Path, facts: Facts) -> None:
    with pytest.raises(StorageFailed, match=FAILED):
        with plain.bus.running(journal=journal, workers=1) as client:
            pid = client.supervisor_pid
            assert pid is not None
            break_disk(client, pid, journal)
            assert client.start("echo", [LARGE], buffer_id="b").wait(60).successful == 1
            done = True
    assert done
    facts.assert_whole("b", 1)
    with plain.bus.running(journal=journal, workers=1) as client:
        assert client.buffer("b").wait(60).successful == 1


@pytest.mark.slow
def test_a_start_that_cannot_bring_the_log_home_is_refused_and_changes_nothing(
    journal: Path, facts: Facts
) -> None:
    with Service(journal, workers=1) as service:
        with service.client() as client:
            size_bytes = break_disk(client, service.pid, journal)
            client.start("echo", [LARGE], buffer_id="b").wait(60)
            assert service.process.wait(60) == 5
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
        try:
            service.process = service.spawn()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert service.process.wait(60) == 5
        service.until_logged(FAILED, times=2)
        facts.assert_whole("b", 1)
        service.process = service.spawn()
        service.until_serving()
        service.send(signal.SIGTERM)
        assert service.process.wait(60) == 0
    facts.assert_whole("b", 1)
