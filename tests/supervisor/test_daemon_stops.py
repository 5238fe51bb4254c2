"""A daemon stops when it is asked to; until then its journal and its socket are its own."""

import re
import signal
from pathlib import Path

import pytest
from command_line import durable_bus, status, write_items
from services import Service, connected
from support import Facts, RunLog, is_alive, until


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_runs_and_gives_back_the_rest(
    journal: Path, facts: Facts, run_log: RunLog, number: signal.Signals
) -> None:
    door = journal.parent / "door"
    with Service(journal) as service:
        with service.client() as client:
            client.start("gate", [str(door)] * 10, buffer_id="b")
            until(lambda: len(run_log.runs()) == 2, "each worker has begun with an item")
            begun = set(run_log.indexes())
            service.send(number)
            service.until_logged("stopping")
            door.touch()
            assert service.process.wait(60) == 0
        assert {index for (index,) in facts.rows("SELECT item_index FROM results")} == begun
        assert facts.rows("SELECT * FROM in_flight") == []
        assert facts.value("SELECT ended FROM runs") == "clean"
        assert set(run_log.indexes()) == begun
        service.process = service.spawn()
        with connected(journal) as client:
            assert client.buffer("b").wait(60).successful == 10
    assert facts.failures("b") == []
    assert run_log.times() == dict.fromkeys(range(10), 1)


@pytest.mark.slow
def test_a_second_stop_ends_at_once_and_charges_nobody(journal: Path, facts: Facts, run_log: RunLog) -> None:
    door = journal.parent / "door"
    with Service(journal, workers=1, grace_s=600) as service:
        with service.client() as client:
            client.start("gate", [str(door)] * 3, buffer_id="b")
            run_log.until_started(0)
            service.send(signal.SIGTERM)
            service.until_logged("stopping")
            service.send(signal.SIGTERM)
            assert service.process.wait(60) == 0
        assert facts.rows("SELECT * FROM in_flight") == []
        door.touch()
        service.process = service.spawn()
        with connected(journal) as client:
            assert client.buffer("b").wait(60).successful == 3
    assert facts.failures("b") == []
    assert facts.value("SELECT max(attempts) FROM items") == 1


def test_a_stop_waits_no_longer_than_its_grace(journal: Path, facts: Facts, run_log: RunLog) -> None:
    with Service(journal, workers=1, grace_s=0.05) as service:
        with service.client() as client:
            client.start("gate", [str(journal.parent / "never")], buffer_id="b")
            run_log.until_started(0)
            assert service.stop() == 0
    assert facts.value("SELECT ended FROM runs") == "clean"
    assert facts.failures("b") == []


@pytest.mark.slow
def test_what_is_acknowledged_while_the_daemon_drains_is_done_by_the_next(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    door = journal.parent / "door"
    with Service(journal, workers=1) as service:
        with service.client() as client:
            client.start("gate", [str(door)], buffer_id="first")
            run_log.until_started(0)
            service.send(signal.SIGTERM)
            service.until_logged("stopping")
            client.start("echo", ["late"], buffer_id="late")
            door.touch()
            assert service.process.wait(60) == 0
        assert facts.recorded("late") == 0
        service.process = service.spawn()
        with connected(journal) as client:
            assert client.buffer("late").wait(60).successful == 1


def test_nothing_is_left_of_a_daemon_that_ended(journal: Path) -> None:
    with Service(journal) as service:
        workers = until(lambda: len(service.workers()) == 2 and service.workers(), "it has workers")
        assert service.stop() == 0
        assert not any(is_alive(pid) for pid in workers)
        names = sorted(path.name for path in journal.parent.iterdir())
        assert names == ["daemon.log", "journal.db", "journal.db.lock"]


@pytest.mark.slow
def test_a_second_daemon_is_refused_and_the_first_serves_on(journal: Path) -> None:
    with Service(journal) as service:
        second = service.spawn()
        assert second.wait(60) == 5
        assert re.search(f"^journal .* is served by process {service.pid}$", service.log(), re.MULTILINE)
        with service.client() as client:
            assert client.start("echo", ["a"]).wait(60).successful == 1


def serving(journal: Path, address: Path) -> Service:
    """A daemon of `journal`, beside others in one folder, that is told to listen at `address`."""
    journal.parent.mkdir(exist_ok=True)
    return Service(journal, workers=1, socket=str(address))


@pytest.mark.slow
def test_a_daemon_leaves_a_socket_to_the_daemon_of_another_journal_that_has_it(tmp_path: Path) -> None:
    address = tmp_path / "bus.sock"
    with serving(tmp_path / "a" / "a.db", address) as first:
        second = serving(tmp_path / "b" / "b.db", address)
        assert second.process.wait(60) == 5
        (line,) = [line for line in second.log().splitlines() if "another journal" in line]
        assert line == f"cannot listen at {address}: process {first.pid} does, and serves another journal"
        with first.client() as client:
            assert client.start("echo", ["a"]).wait(60).successful == 1
        first.kill()
        assert address.is_socket()
        second.process = second.spawn()  # a stale one is replaced
        with second, second.client() as client:
            assert client.start("echo", ["a"]).wait(60).successful == 1


@pytest.mark.slow
def test_what_is_meant_for_one_journal_never_comes_into_another(tmp_path: Path) -> None:
    """A socket was removed under its daemon, and another journal's daemon has made its own there."""
    address = tmp_path / "bus.sock"
    mine, other = tmp_path / "a" / "a.db", tmp_path / "b" / "b.db"
    with serving(mine, address) as first:
        first.until_ready()
        address.unlink()
        with serving(other, address) as second:
            second.until_ready()
            items = write_items(tmp_path, "a")
            ran = durable_bus(
                "submit", "--wait-daemon", 0, "echo", "--items", items, "--journal", mine, cwd=tmp_path
            )
            assert (ran.code, ran.out) == (5, "")
            assert f"no daemon serves {mine} (the daemon at its socket serves another journal" in ran.error
            assert str(other) in ran.error
            told = status(mine)["supervisor"]
            assert (told["state"], told["pid"], told.get("workers", [])) == ("alive", first.pid, [])
            assert len(status(other)["supervisor"]["workers"]) == 1
            assert first.stop() == 0
            assert address.is_socket(), "it is the other daemon's"
            with second.client() as client:
                assert client.start("echo", ["a"]).wait(60).successful == 1
        assert Facts(other).value("SELECT count(*) FROM buffers") == 1
        assert Facts(mine).value("SELECT count(*) FROM buffers") == 0
