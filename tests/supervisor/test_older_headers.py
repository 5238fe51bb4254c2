"""A Python that was built with older headers, as conda's and uv's were, has no pidfds and no memfd:
everything runs, and whoever dies is missed.
"""

import os
from pathlib import Path

import pytest
from command_line import Command, durable_bus, write_items
from services import Service, works
from support import Facts, RunLog, children_of, kill, until, until_gone, workers_of

pytestmark = [pytest.mark.real_start, pytest.mark.slow]

FORGETS = """
import fcntl, os, signal
for module, names in (
    (os, ("pidfd_open", "memfd_create", "MFD_CLOEXEC", "O_PATH", "O_TMPFILE")),
    (signal, ("pidfd_send_signal",)),
    (fcntl, ("F_SETPIPE_SZ",)),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
"""


@pytest.fixture(autouse=True)
def older_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each Python that starts begins with `sitecustomize`."""
    folder = tmp_path / "older"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FORGETS)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def test_a_worker_that_dies_has_a_successor(journal: Path) -> None:
    with Service(journal, workers=2) as service, service.client() as client:
        service.until_ready()
        kill(service.workers()[0])
        service.until_logged("worker ended")
        service.until_ready()
        assert works(client)


def test_a_daemon_at_a_long_path_is_reached(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20) / ("longer" * 10)
    folder.mkdir(parents=True)
    with Service(folder / "journal.db", workers=1) as service, service.client() as client:
        service.until_ready()
        assert works(client)


def test_a_supervisor_ends_with_its_client_and_workers_with_it(
    tmp_path: Path, facts: Facts, run_log: RunLog
) -> None:
    items = write_items(tmp_path, *[tmp_path / "door"] * 4)
    run = ("run", "apps.plain:bus", "gate", "--workers", 2, "--items", items, "--buffer-id", "b")
    command = Command(*run, cwd=tmp_path)
    run_log.until_each_started(1, workers=2)
    supervisor = command.supervisor()
    workers = workers_of(supervisor)
    command.kill()
    for pid in (supervisor, *workers):
        until_gone(pid)
    (tmp_path / "door").touch()
    ran = durable_bus(*run, cwd=tmp_path)
    assert ran.code == 0, ran.err
    facts.assert_whole("b", 4)


def test_an_engine_whose_process_dies(tmp_path: Path, facts: Facts, run_log: RunLog) -> None:
    items = write_items(tmp_path, *[tmp_path / "door"] * 4)
    run = ("run", "apps.plain:bus", "gate", "--engine", "process:1", "--items", items, "--buffer-id", "b")
    command = Command(*run, cwd=tmp_path)
    run_log.until_started(0)
    first = run_log.worker_of(0)
    kill(first)
    (tmp_path / "door").touch()
    ran = command.ended()
    assert ran.code == 0, ran.err
    facts.assert_whole("b", 4)
    until(lambda: not children_of(command.pid), "nobody is left")
