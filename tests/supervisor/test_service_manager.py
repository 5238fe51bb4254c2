"""A daemon that systemd has started tells it how it is (sd_notify), and only while its turns go round."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from services import Service, stopped
from support import until

from durable_bus.supervisor.io.systemd import Systemd

pytestmark = pytest.mark.real_start

HALF_A_SECOND_US = "500000"
SOON_US = "20000"


class Manager:
    """A service manager's end of the socket."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.socket.settimeout(60)

    def next(self) -> str:
        return self.socket.recv(1000).decode()

    def until(self, told: str) -> None:
        while self.next() != told:
            pass

    def all(self) -> list[str]:
        """What lies there."""
        told = []
        self.socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                told.append(self.next())
        self.socket.settimeout(60)
        return told

    def daemon(self, journal: Path, **variables: str) -> Service:
        return Service(journal, workers=1, variables={"NOTIFY_SOCKET": self.address, **variables})

    def systemd(self, **variables: str) -> Systemd:
        systemd = Systemd.of({"NOTIFY_SOCKET": self.address, **variables})
        assert systemd is not None
        return systemd


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.socket.close()


@pytest.mark.slow
def test_a_daemon_gives_signs_of_life_until_it_is_stopped_and_again_when_it_goes_on(
    journal: Path, manager: Manager
) -> None:
    with manager.daemon(journal, WATCHDOG_USEC=SOON_US) as service:
        assert manager.next() == "READY=1"
        for _ in range(3):  # nobody gives it anything to do: it wakes for this
            manager.until("WATCHDOG=1")
        stopped(service.pid)
        manager.all()
        manager.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            manager.next()
        manager.socket.settimeout(60)
        service.send(signal.SIGCONT)
        manager.until("WATCHDOG=1")


@pytest.mark.slow
def test_a_stop_is_told_when_it_begins(journal: Path, manager: Manager) -> None:
    door = journal.parent / "door"
    with manager.daemon(journal) as service, service.client() as client:
        client.start("gate", [str(door)])
        until(lambda: service.facts.value("SELECT count(*) FROM in_flight"), "it runs")
        service.send(signal.SIGTERM)
        manager.until("STOPPING=1")
        assert service.process.poll() is None
        door.touch()


@pytest.mark.slow
def test_the_status_says_how_many_buffers_are_open(journal: Path, manager: Manager) -> None:
    door = journal.parent / "door"
    with manager.daemon(journal) as service, service.client() as client:
        manager.until("STATUS=0 buffers open")
        buffer = client.start("gate", [str(door)])
        manager.until("STATUS=1 buffer open")
        client.start("gate", [str(door)])
        manager.until("STATUS=2 buffers open")
        door.touch()
        buffer.wait(60)
        manager.until("STATUS=0 buffers open")


@pytest.mark.slow
def test_what_handlers_start_is_not_the_daemon_that_the_manager_has_started(
    journal: Path, manager: Manager
) -> None:
    with manager.daemon(journal, WATCHDOG_USEC=HALF_A_SECOND_US) as service, service.client() as client:
        names = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]
        buffer = client.start("variable", names)
        buffer.wait(60)
        assert [result.payload for result in buffer.results()] == ["none"] * 3


def test_a_watchdog_that_is_meant_for_another_process_hears_nothing(manager: Manager) -> None:
    systemd = manager.systemd(WATCHDOG_USEC=SOON_US, WATCHDOG_PID="1")
    systemd.turned(1.0, 0)
    assert systemd.due_s is None
    assert manager.all() == ["STATUS=0 buffers open"]
    systemd.close()


@pytest.mark.parametrize("interval", ["", "0", "-5", "soon"])
def test_without_an_interval_there_is_no_watchdog(manager: Manager, interval: str) -> None:
    systemd = manager.systemd(WATCHDOG_USEC=interval)
    systemd.turned(1.0, 0)
    assert systemd.due_s is None
    systemd.close()


def test_a_sign_of_life_comes_at_half_of_the_interval_and_not_at_every_turn(manager: Manager) -> None:
    systemd = manager.systemd(WATCHDOG_USEC=HALF_A_SECOND_US, WATCHDOG_PID=str(os.getpid()))
    systemd.turned(100.0, 0)
    assert manager.all() == ["WATCHDOG=1", "STATUS=0 buffers open"]
    assert systemd.due_s == 100.25
    for now_s in (100.1, 100.2, 100.24):
        systemd.turned(now_s, 0)
    assert manager.all() == []
    systemd.turned(100.26, 0)
    assert manager.all() == ["WATCHDOG=1"]
    assert systemd.due_s == 100.51
    systemd.close()


def test_the_status_comes_once_a_second_at_most_and_the_last_one_is_not_lost(manager: Manager) -> None:
    systemd = manager.systemd()
    for number in range(50):
        systemd.turned(100 + number / 100, number)
    assert manager.all() == ["STATUS=0 buffers open"]
    assert systemd.due_s == 101.0
    systemd.turned(101.0, 49)
    assert manager.all() == ["STATUS=49 buffers open"]
    assert systemd.due_s is None
    systemd.close()


def test_a_manager_that_reads_nothing_holds_up_nobody_and_is_told_again_soon(manager: Manager) -> None:
    systemd = manager.systemd(WATCHDOG_USEC=HALF_A_SECOND_US)
    systemd.ready()
    now_s = 100.0
    while systemd.due_s is None or systemd.due_s != now_s + 0.05:  # so many that no more find room
        now_s += 0.25
        systemd.turned(now_s, 0)
    manager.all()
    systemd.turned(now_s + 0.05, 0)
    assert manager.all() == ["WATCHDOG=1"]
    systemd.close()


HANGING = """
import json
import sys
import time
from durable_bus.supervisor.scheduling import recall
from service_process import main

def hang(context):
    while True:
        time.sleep(0.01)  # other threads may run

def after(count, take_back):
    def counted(context):
        nonlocal count
        count -= 1
        return take_back(context) if count > 0 else hang(context)
    return counted

recall.take_back = after(5, recall.take_back)
main(json.loads(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_loop_that_hangs_in_a_turn_gives_no_sign_of_life_though_its_process_lives(
    journal: Path, manager: Manager, tmp_path: Path
) -> None:
    program = tmp_path / "hanging.py"
    program.write_text(HANGING)
    service = manager.daemon(journal, WATCHDOG_USEC=SOON_US)
    service.stop()
    manager.all()
    arguments = [sys.executable, str(program), service.process.args[2]]  # type: ignore[index]
    environment = {**os.environ, "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": SOON_US}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL) as process:
        assert manager.next() == "READY=1"
        manager.socket.settimeout(2)
        told: list[str] = []
        with suppress(TimeoutError):
            while len(told) < 100:
                told.append(manager.next())
        assert "WATCHDOG=1" in told
        assert told.count("WATCHDOG=1") < 5
        assert process.poll() is None
        process.kill()
