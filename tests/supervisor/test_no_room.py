"""A machine that has no room for one more process, thread or file: a daemon goes on with the workers that it
has, and starts what is missing when there is room again; a command says it in a line.
"""

import os
import resource
from pathlib import Path

import pytest
from command_line import durable_bus, write_items
from no_room import no_room
from services import Service, works
from support import kill, until

pytestmark = [pytest.mark.real_start, pytest.mark.slow]


def test_a_daemon_goes_on_with_the_workers_that_it_has(journal: Path) -> None:
    with Service(journal, workers=2) as service, service.client() as client:
        service.until_ready()
        opened = service.open_files()
        newest = max(int(name) for name in os.listdir(f"/proc/{service.pid}/fd"))
        with no_room(service.pid, newest + 1):  # it may open what it closes: not enough for the pipes of one
            kill(service.workers()[0])
            service.until_logged("cannot start a worker", 2)
            assert works(client)
        service.until_ready()
        until(lambda: service.open_files() <= opened, "no more files are open than before")


def test_what_comes_while_there_is_no_worker_at_all_runs_when_there_is_one(journal: Path) -> None:
    with Service(journal, workers=2) as service, service.client() as client:
        service.until_ready()
        with no_room(service.pid):
            for worker in service.workers():
                kill(worker)
            service.until_logged("cannot start a worker", 2)
            buffer = client.start("echo", ["a", "b"], buffer_id="b")
            assert service.workers() == []
        assert buffer.wait(60).successful == 2
    service.facts.assert_whole("b", 2)


def test_a_command_that_may_not_start_a_thread_says_so_in_a_line(tmp_path: Path) -> None:
    """A thread's stack is as large as the stack may be, and that is more than there may be of all."""
    before = {what: resource.getrlimit(what) for what in (resource.RLIMIT_STACK, resource.RLIMIT_AS)}
    items = write_items(tmp_path, "a")
    command = ("run", "apps.plain:bus", "echo", "--items", items, "--workers", 1)
    try:
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 40, before[resource.RLIMIT_STACK][1]))
        resource.setrlimit(resource.RLIMIT_AS, (1 << 36, before[resource.RLIMIT_AS][1]))
        ran = durable_bus(*command, cwd=tmp_path, OPENBLAS_NUM_THREADS="1")
    finally:
        for what, limits in before.items():
            resource.setrlimit(what, limits)
    assert (ran.code, ran.out) == (5, "")
    assert ran.error == "cannot start a thread: there is no room for one more here"
    assert durable_bus(*command, cwd=tmp_path).code == 0
