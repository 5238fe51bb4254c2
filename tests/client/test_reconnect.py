"""Clients outlive their daemon: what they ask is asked again, done once, and answered."""

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from apps import plain
from daemons import Daemon
from services import Raw, Service, connected, stopped
from support import Facts, RunLog, environment, kill, until

from durable_bus import Buffer, BufferError, __version__
from durable_bus.client import session as contact
from durable_bus.client.client import Client
from durable_bus.client.upload import BATCH_ITEMS
from durable_bus.errors import JournalUnreachable, SupervisorLost, TimedOut, VersionMismatch
from durable_bus.wire.framing import encode
from durable_bus.wire.protocol import Cancel, Hello
from durable_bus.wire.socket_file import socket_path

SOME = 2 * BATCH_ITEMS + 1000
"""Items that arrive in several chunks, of which some have arrived when the rest is asked for."""


def numbered(count: int) -> list[str]:
    return [f"item {index}" for index in range(count)]


def assert_whole(facts: Facts, buffer_id: str, items: list[str]) -> None:
    """Every item once, in its order, and a result for each."""
    rows = facts.rows(
        "SELECT item_index, payload FROM items WHERE buffer_id = ? ORDER BY item_index", buffer_id
    )
    assert rows == list(enumerate(items))
    facts.assert_whole(buffer_id, len(items))


# Starting


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("total", [1, SOME])
def test_a_start_survives_the_daemons_death_at_any_commit(tmp_path: Path, total: int, when: str) -> None:
    """The commits of a start: it begins, its chunks arrive, it opens; or several of these in one. A daemon
    for
    each, that dies there; the client is told by the next one, and nothing is there twice. Deaths before and
    after every other commit leave each state of the journal once. The first two are not a client's: the run
    begins, and its worker tells of the app.
    """
    items = numbered(total)
    for die_at in range(3, 10, 2):
        journal = tmp_path / f"{die_at}.db"
        with Daemon(journal, "apps.plain:bus", workers=1, dies=(when, die_at)) as first:
            first.until_listening()
            with closing(connected(journal)) as client:
                started: list[Buffer] = []
                starting = threading.Thread(
                    target=lambda client=client, started=started: started.append(
                        client.start("describe", items, buffer_id="b")
                    )
                )
                starting.start()
                until(
                    lambda first=first, started=started: first.process.poll() is not None or started,
                    "it has died, or done all",
                )
                first.kill()
                with Daemon(journal, "apps.plain:bus", workers=1):
                    starting.join(60)
                    assert started[0].wait(60).successful == total
                    assert client.start("describe", items, buffer_id="b").existed
        assert_whole(Facts(journal), "b", items)


@pytest.mark.slow
def test_a_start_goes_on_where_the_killed_daemon_was(journal: Path, facts: Facts) -> None:
    """Three kills while its items arrive: each chunk is on disk once."""
    items = numbered(100_000)
    with Service(journal, verbose=False) as service, service.client() as client:

        def arriving() -> Iterator[str]:
            for index, item in enumerate(items):
                if index in (25_000, 50_000, 75_000):
                    facts.until(f"SELECT received >= {index - 3 * BATCH_ITEMS} FROM buffer")
                    service.restart()
                yield item

        assert client.start("describe", arriving(), buffer_id="b").wait(100).successful == len(items)
    assert_whole(facts, "b", items)
    assert facts.value("SELECT count(*) FROM runs") == 4


@pytest.mark.slow
def test_several_threads_of_one_client_all_go_on(journal: Path, facts: Facts) -> None:
    with Service(journal) as service, service.client() as client:
        begun = threading.Barrier(5)

        def start(number: int) -> None:
            def items() -> Iterator[str]:
                yield from numbered(SOME)
                begun.wait(60)
                yield from numbered(SOME)

            client.start("describe", items(), buffer_id=f"b{number}").wait(100)

        threads = [threading.Thread(target=start, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        begun.wait(60)
        service.restart()
        for thread in threads:
            thread.join(100)
        assert not any(thread.is_alive() for thread in threads)
    for number in range(4):
        assert_whole(facts, f"b{number}", numbered(SOME) * 2)


@pytest.mark.slow
def test_a_client_that_vanishes_leaves_nothing_behind_after_its_time(journal: Path, facts: Facts) -> None:
    source = (
        "import os, sys\n"
        "from durable_bus.client.client import Client\n"
        "def items():\n"
        "    yield from ['a'] * 40_000\n"
        "    os.kill(os.getpid(), 9)\n"
        "with Client(sys.argv[1]) as client:\n"
        "    client.start('echo', items(), buffer_id='b')\n"
    )
    with (
        Service(journal, receiving_timeout_ms=300, housekeeping_s=0.02) as service,
        service.client() as client,
    ):
        service.until_ready()  # a start that still waits for that when its client goes leaves nothing at all
        vanished = subprocess.run([sys.executable, "-c", source, str(journal)], env=environment())
        assert vanished.returncode == -signal.SIGKILL
        service.until_logged("buffer given up buffer=b")
        facts.until("SELECT count(*) = 0 FROM item")
        for table in ("buffer", "thread", "request"):
            assert facts.value(f"SELECT count(*) FROM {table}") == 0
        assert client.start("echo", ["other"], buffer_id="b").wait(60).successful == 1


@pytest.mark.slow
def test_a_client_that_is_slow_but_there_is_not_given_up(journal: Path, facts: Facts) -> None:
    with Service(journal, receiving_timeout_ms=1, housekeeping_s=0.01) as service, service.client() as client:

        def items() -> Iterator[str]:
            for _ in range(3):
                yield from numbered(SOME)
                facts.until("SELECT received > 0 FROM buffer")
                with Raw(journal) as raw:
                    for _ in range(50):
                        raw.status()

        assert client.start("describe", items(), buffer_id="b").wait(60).successful == 3 * SOME
    assert "given up" not in service.log()


@pytest.mark.slow
def test_the_time_while_nobody_served_is_not_counted_against_a_client(journal: Path, facts: Facts) -> None:
    """Nor is a clock that was set forward: its last chunk seems to be long ago."""
    with Service(journal, housekeeping_s=0.01) as service, service.client() as client:

        def items() -> Iterator[str]:
            yield from numbered(20 * BATCH_ITEMS)
            facts.until(f"SELECT received > {10 * BATCH_ITEMS} FROM buffer")
            service.kill()
            with closing(sqlite3.connect(journal)) as connection, connection:
                connection.execute("UPDATE buffer SET touched_at = 0")
            service.process = service.spawn()
            facts.until("SELECT count(*) = 2 FROM runs")
            with Raw(journal) as raw:
                for _ in range(50):
                    raw.status()
            yield "the last"

        assert client.start("describe", items(), buffer_id="b").wait(60).successful == 20 * BATCH_ITEMS + 1
    assert "given up" not in service.log()


@pytest.mark.slow
def test_a_client_that_comes_back_too_late_is_told_and_nothing_is_half_there(
    journal: Path, facts: Facts
) -> None:
    with Service(journal, receiving_timeout_ms=1, housekeeping_s=0.01) as service, service.client() as client:

        def items() -> Iterator[str]:
            yield from numbered(20 * BATCH_ITEMS)
            facts.until(f"SELECT received > {10 * BATCH_ITEMS} FROM buffer")
            service.kill()
            service.process = service.spawn()
            facts.until("SELECT count(*) = 0 FROM buffer")
            yield "the last"

        with pytest.raises(BufferError, match="its items were given up"):
            client.start("describe", items(), buffer_id="b")
        facts.until("SELECT count(*) = 0 FROM item")
        assert client.start("describe", ["a"], buffer_id="b").wait(60).successful == 1


@pytest.mark.slow
def test_two_clients_that_send_one_id_are_kept_apart(journal: Path, facts: Facts) -> None:
    with Service(journal) as service, service.client() as first, service.client() as second:

        def items() -> Iterator[str]:
            yield from numbered(SOME)
            facts.until("SELECT received > 0 FROM buffer")
            with pytest.raises(BufferError, match="another client is sending"):
                second.start("describe", ["x"], buffer_id="b")
            yield "the last"

        assert first.start("describe", items(), buffer_id="b").wait(60).successful == SOME + 1
    assert_whole(facts, "b", [*numbered(SOME), "the last"])


@pytest.mark.real_start
@pytest.mark.slow
def test_half_a_million_items_need_the_memory_of_a_few_chunks(journal: Path, facts: Facts) -> None:
    source = (
        "import resource, sys\n"
        "from durable_bus.client.client import Client\n"
        "with Client(sys.argv[1]) as client:\n"
        "    client.start('describe', ['a'], buffer_id='small').wait(60)\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    client.start('sleep', (f'{index:0100}' for index in range(500_000)), buffer_id='b')\n"
        "    client.cancel('b')\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    with Service(journal, verbose=False) as service:
        before_kib = service.memory_kib()
        done = subprocess.run(
            [sys.executable, "-c", source, str(journal)], env=environment(), capture_output=True
        )
        assert int(done.stdout) < 64 * 1024, done.stderr
        assert facts.value("SELECT total FROM buffers WHERE buffer_id = 'b'") == 500_000
        assert service.memory_kib() - before_kib < 100 * 1024


# Following


@pytest.mark.slow
def test_wait_survives_restarts_and_a_time_without_any_daemon(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    door = journal.parent / "door"
    with Service(journal) as service, service.client() as client:
        buffer = client.start("gate", [str(door)] * 4, buffer_id="b")
        run_log.until_started(0)
        waited: list[int] = []
        waiting = threading.Thread(target=lambda: waited.append(buffer.wait(100).successful))
        waiting.start()
        service.restart()
        facts.until("SELECT count(*) = 2 FROM runs")
        service.kill()
        with pytest.raises(TimedOut):
            buffer.wait(0.3)
        service.process = service.spawn()
        door.touch()
        waiting.join(100)
        assert waited == [4]
    # The second daemon may have handed out what was in flight in the first one, alone.
    assert {kind for _, _, kind, _ in facts.failures("b")} <= {"lost"}


@pytest.mark.slow
def test_wait_keeps_its_time_when_the_daemon_is_stopped_and_gone(journal: Path, run_log: RunLog) -> None:
    with Service(journal) as service, service.client() as client, service.client() as other:
        buffer = client.start("gate", [str(journal.parent / "never")], buffer_id="b")
        run_log.until_started(0)
        stopped(service.pid)
        with pytest.raises(TimedOut):
            buffer.wait(0.3)
        service.restart()
        stopped(service.pid)
        for follower in (buffer, other.buffer("b")):
            with pytest.raises(TimedOut):
                follower.wait(0.3)
        service.send(signal.SIGCONT)
        with connected(journal) as last:
            last.cancel("b")
        assert buffer.wait(60).successful == 0


@pytest.mark.slow
def test_results_arrive_over_a_restart_each_once(journal: Path, facts: Facts) -> None:
    with Service(journal) as service, service.client() as client:
        buffer = client.start("sleep", ["0.002"] * 1000, buffer_id="b")
        seen = []
        for result in buffer.as_completed(100):
            seen.append(result.index)
            if len(seen) in (100, 500):
                service.restart()
    assert sorted(seen) == list(range(1000))
    assert facts.failures("b") == []


# Requests


@pytest.mark.slow
def test_a_request_of_a_stopped_daemon_is_answered_when_it_goes_on(journal: Path, facts: Facts) -> None:
    with Service(journal) as service, service.client() as client:
        client.pause(client.start("describe", ["a"] * 20_000, buffer_id="b").buffer_id)
        stopped(service.pid)
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(client.resume("b")))
        asking.start()
        service.send(signal.SIGCONT)
        asking.join(60)
        assert len(answers) == 1
        assert client.buffer("b").wait(60).successful == 20_000


@pytest.mark.slow
def test_a_request_without_any_daemon_gives_up_after_its_time(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact, "RECONNECT_S", 0.3)
    with Service(journal) as service, service.client() as client:
        client.start("describe", ["a"], buffer_id="b").wait(60)
        service.kill()
        with pytest.raises(SupervisorLost, match="no daemon has come back within"):
            client.cancel("b")
        assert client.buffer("b").wait(1).successful == 1


@pytest.mark.slow
def test_a_receiver_without_any_daemon_keeps_its_time(journal: Path) -> None:
    with Service(journal) as service, service.client("cli") as client:
        service.kill()
        with pytest.raises(TimedOut, match="no message to cli within"):
            client.receive(0.3)


@pytest.mark.slow
def test_a_supervisor_of_our_own_is_not_waited_for(journal: Path) -> None:
    with plain.bus.running(journal=journal, workers=1) as client:
        assert client.supervisor_pid is not None
        kill(client.supervisor_pid)
        with pytest.raises(SupervisorLost):
            client.cancel("b")
        with pytest.raises(SupervisorLost):
            client.start("echo", ["a"])


@pytest.mark.slow
def test_a_daemon_of_another_version_is_not_asked_again(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Service(journal) as service, service.client() as client:
        client.start("describe", ["a"], buffer_id="b").wait(60)
        monkeypatch.setattr("durable_bus.client.session.__version__", f"{__version__}.x")
        service.restart()
        until(lambda: service.facts.value("SELECT count(*) FROM runs") == 2, "it is back")
        with pytest.raises(VersionMismatch):
            client.cancel("b")
        assert client.buffer("b").wait(60).successful == 1  # the journal is the journal
        with pytest.raises(VersionMismatch):
            Client(journal)


@pytest.mark.slow
def test_a_client_that_finds_no_socket_is_told_what_can_be_known(journal: Path) -> None:
    """Of a daemon whose socket file somebody removed, and of a supervisor that never had one."""
    with Service(journal) as service, service.client() as client:
        socket_path(journal).unlink()
        with pytest.raises(JournalUnreachable) as refused:
            Client(journal)
        assert str(refused.value) == (
            f"process {service.pid} holds {journal} and does not listen at {socket_path(journal)}: it serves "
            "for itself alone, as `durable-bus run` does, has only just started, or its socket file was "
            "removed; wait for its end, or start it again"
        )
        assert client.start("echo", ["a"]).wait(60).successful == 1, "who is connected stays so"
    with plain.bus.running(journal=journal, workers=1) as embedded:
        with pytest.raises(JournalUnreachable, match=f"process {embedded.supervisor_pid} holds .* itself al"):
            Client(journal)


@pytest.mark.slow
def test_frames_that_come_before_the_hello_is_answered_are_answered_after_it(journal: Path) -> None:
    """A client need not wait for its welcome: everything is answered in order."""
    with Service(journal), Raw(journal) as raw:
        hello = Hello("1", version=__version__, name="cli", needs_app=True)
        raw.write(encode(hello) + encode(Cancel("2", "b")))
        assert [raw.answer()["request"], raw.answer()["request"]] == ["1", "2"]
