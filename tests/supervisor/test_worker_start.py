"""Workers that are started before anybody asks for them."""

import os
import sys
from pathlib import Path

import pytest
from command_line import durable_bus
from services import Service

from durable_bus.journal.lock import JournalLock
from durable_bus.payloads.settings import AppSpec
from durable_bus.supervisor.io.worker_start import StartedWorker, WorkerStarter

pytestmark = pytest.mark.real_start


def starter(tmp_path: Path) -> WorkerStarter:
    return WorkerStarter(AppSpec("module", "apps.plain", "bus", sys.path), tmp_path / "journal.db")


def end(*workers: StartedWorker) -> None:
    for worker in workers:
        worker.end()


def test_who_was_started_ahead_is_given_first(tmp_path: Path) -> None:
    starting = starter(tmp_path)
    starting.start_ahead(2)
    ahead = [worker.process.pid for worker in starting._ahead]
    given = [starting.start() for _ in range(3)]
    try:
        assert [worker.process.pid for worker in given[:2]] == ahead
        assert given[2].process.pid not in ahead
    finally:
        end(*given)


def test_whom_nobody_has_asked_for_is_killed_in_the_end(tmp_path: Path) -> None:
    starting = starter(tmp_path)
    starting.start_ahead(2)
    given, left = starting.start(), starting._ahead[0]
    starting.close()
    try:
        assert given.process.poll() is None
        assert left.process.returncode == -9
        for fd in (left.read_fd, left.write_fd):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
    finally:
        end(given)


@pytest.mark.slow
def test_a_supervisor_that_may_not_have_the_journal_has_imported_no_app(tmp_path: Path) -> None:
    app = [
        "from pathlib import Path",
        "from durable_bus import Bus",
        "Path('imported').touch()",
        "bus = Bus('app')",
    ]
    (tmp_path / "leaves_a_trace.py").write_text("\n".join(app))
    lock = JournalLock(tmp_path / "journal.db")
    try:
        refused = durable_bus("serve", "leaves_a_trace:bus", "--journal", "journal.db", cwd=tmp_path)
    finally:
        lock.release()
    assert refused.code == 5
    assert not (tmp_path / "imported").exists()


@pytest.mark.slow
def test_as_many_workers_are_started_as_are_wanted(journal: Path) -> None:
    with Service(journal, workers=3) as service:
        service.until_ready(3)
        assert len(service.workers()) == 3
        with service.client() as client:
            assert client.start("echo", ["a"], buffer_id="one").wait().total == 1
        assert len(service.workers()) == 3
