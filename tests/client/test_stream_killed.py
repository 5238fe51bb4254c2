"""Streams whose producer, daemon or supervisor is killed, stopped, or has no room on disk."""

import random
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from apps import plain
from daemons import Daemon, Succession, client_of
from disks import small_disk
from services import Service, connected, stopped
from streams_seen import is_clean, is_sealed, items_of
from support import Facts, RunLog, environment, kill, outcome, program, until

from durable_bus import BufferError
from durable_bus.client.client import Client
from durable_bus.client.stream import Stream
from durable_bus.errors import DurableBusError, SupervisorLost, TimedOut


@pytest.fixture
def own_facts(journal: Path) -> Facts:
    return Facts(journal)


PRODUCER = """
import sys
from durable_bus import Client
from durable_bus.errors import BufferError
journal, buffer_id, total = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Client(journal) as client:
    try:
        stream = client.stream("echo", buffer_id=buffer_id)
    except BufferError as error:
        sys.exit(f"{error}")
    with stream:
        for number in range(stream.received, total):
            stream.put(f"item {number}")
            if number == stream.received and len(sys.argv) > 4:
                print("put", flush=True)
                sys.stdin.read()
"""


@pytest.mark.slow
def test_two_processes_that_produce_at_a_time_are_one_line(journal: Path, own_facts: Facts) -> None:
    with Service(journal, workers=1):
        arguments = [sys.executable, "-c", PRODUCER, str(journal), "b", "10"]
        first = subprocess.Popen(
            [*arguments, "waiting"], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert first.stdout is not None
        assert first.stdout.readline() == b"put\n"
        second = subprocess.run(arguments, env=environment(), capture_output=True, text=True)
        assert second.returncode == 1
        assert second.stderr == "buffer b: another client is sending its items just now\n"
        first.communicate(b"", timeout=60)
        assert first.returncode == 0
        own_facts.until("SELECT state = 'complete' FROM buffers")
    own_facts.assert_whole("b", 10)


# Deaths


@pytest.mark.slow
def test_a_producer_that_is_killed_at_any_moment_goes_on(
    tmp_path: Path, journal: Path, own_facts: Facts
) -> None:
    rng = random.Random(11)
    total = 0
    with Service(journal, workers=2, verbose=False):
        for _ in range(6):
            producer = program(tmp_path / "producer.py", PRODUCER, str(journal), "b", str(10**9))
            own_facts.until(f"SELECT total > {total + rng.randrange(20_000)} FROM buffers")
            producer.kill()
            producer.communicate()
            total = int(own_facts.value("SELECT total FROM buffers"))
            assert not is_sealed(own_facts, "b")
        total += 10_000  # more than the daemon may still take of what was on its way
        producer = program(tmp_path / "producer.py", PRODUCER, str(journal), "b", str(total))
        assert outcome(producer) == (0, "", "")
        own_facts.until("SELECT state = 'complete' FROM buffers")
    assert items_of(own_facts, "b") == [f"item {number}" for number in range(total)]
    own_facts.assert_whole("b", total)
    assert is_clean(journal)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_daemon_that_dies_at_any_commit_loses_nothing(journal: Path, own_facts: Facts, when: str) -> None:
    """Again and again; the next one is told what was not acknowledged."""
    deaths = [3, 4, 5, 6, 7, 9, 12]
    with Succession(journal, "apps.plain:bus", deaths, when) as daemons, client_of(journal) as client:
        with client.stream("echo", buffer_id="b") as stream:
            number = 0
            while daemons.killed < len(deaths):
                stream.put(f"item {number}")
                number += 1
                stream.flush()
                assert own_facts.value("SELECT total FROM buffers") >= number, "what was flushed is there"
            for _ in range(5_000):
                stream.put(f"item {number}")
                number += 1
        assert stream.wait(100).successful == number
    assert items_of(own_facts, "b") == [f"item {index}" for index in range(number)]
    own_facts.assert_whole("b", number)
    assert is_clean(journal)


@pytest.mark.slow
def test_a_producer_at_full_speed_does_not_notice_kills(journal: Path, own_facts: Facts) -> None:
    total = 60_000
    with Service(journal, workers=2, verbose=False) as service, service.client() as client:
        with client.stream("echo", buffer_id="b") as stream:
            for number in range(total):
                if number in (9_000, 25_000, 50_000):
                    own_facts.until(f"SELECT total > {number - 9_000} FROM buffers")
                    service.restart()
                stream.put(f"item {number}")
        assert stream.wait(100).successful == total
    assert items_of(own_facts, "b") == [f"item {number}" for number in range(total)]
    own_facts.assert_whole("b", total)


@pytest.mark.slow
def test_a_daemon_that_dies_before_the_first_item_and_before_the_seal(
    journal: Path, own_facts: Facts
) -> None:
    with Service(journal, workers=1) as service, service.client() as client:
        service.restart()
        with client.stream("echo", buffer_id="b") as stream:
            service.restart()
            stream.put("a")
            stream.flush()
            service.restart()
            stream.put("b")
            stream.flush()
            service.restart()
        assert stream.wait(100).successful == 2
        service.restart()
        assert client.stream("echo", buffer_id="b").sealed
    own_facts.assert_whole("b", 2)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_daemon_that_dies_at_the_seal(journal: Path, own_facts: Facts, when: str) -> None:
    """Its commits: it has begun its run, the stream, its chunk, a dispatch, a result, and the seal."""
    for die_at in range(3, 8):
        buffer_id = f"b{die_at}"
        with Daemon(journal, "apps.plain:bus", workers=1, dies=(when, die_at)) as first:
            first.until_listening()
            client = connected(journal) if first.process.poll() is None else None
            if client is None:
                continue
            with client:
                sealing = threading.Thread(target=put_one, args=(client, buffer_id))
                sealing.start()
                until(partial(ended_or_died, sealing, first), "it ends or dies")
                with Daemon(journal, "apps.plain:bus", workers=1):
                    sealing.join(100)
                    assert not sealing.is_alive()
                    assert client.buffer(buffer_id).wait(60).successful == 1
        own_facts.assert_whole(buffer_id, 1)


def ended_or_died(thread: threading.Thread, daemon: Daemon) -> bool:
    return not thread.is_alive() or daemon.process.poll() is not None


def put_one(client: Client, buffer_id: str) -> None:
    with client.stream("echo", buffer_id=buffer_id) as stream:
        stream.put("a")


@pytest.mark.slow
def test_who_comes_back_after_another_has_gone_on_is_told(journal: Path, own_facts: Facts) -> None:
    door = journal.parent / "door"
    with Service(journal, workers=1) as service, service.client() as first:
        stream = first.stream("gate", buffer_id="b", ahead=3)
        stream.put(str(door))
        stream.flush()
        service.restart()
        with connected(journal) as second:
            with second.stream("gate", buffer_id="b") as other:
                assert other.received == 1
                other.put("")
                with pytest.raises(
                    BufferError, match="another client has gone on with this stream meanwhile"
                ):
                    for _ in range(10):  # also where `ahead` is reached by what is never there
                        stream.put(str(door))
                with pytest.raises(BufferError, match="another client has gone on"):
                    stream.flush()
            door.touch()
            assert other.wait(60).successful == 2
    assert items_of(own_facts, "b") == [str(door), ""]


@pytest.mark.slow
def test_put_keeps_its_time_while_the_daemon_is_stopped(journal: Path) -> None:
    with Service(journal, workers=1) as service, service.client() as client:
        with client.stream("echo", buffer_id="b") as stream:
            stream.put("a")
            stream.flush()
            stopped(service.pid)
            put = 1
            with pytest.raises(TimedOut):
                while put < 100:
                    stream.put("x" * 1_000_000, timeout=0.2)
                    put += 1
            assert put < 30, "what waits to be sent has a bound"
            service.send(signal.SIGCONT)
        assert stream.wait(100).successful == put


@pytest.mark.slow
def test_a_supervisor_of_ones_own_that_dies_is_an_error_and_what_was_flushed_is_there(journal: Path) -> None:
    with plain.bus.running(journal=journal, workers=1) as client:
        with pytest.raises(SupervisorLost):
            with client.stream("echo", buffer_id="b") as stream:
                stream.put("a")
                stream.flush()
                assert client.supervisor_pid is not None
                kill(client.supervisor_pid)
                while True:
                    stream.put("b")
                    stream.flush()
        with pytest.raises(SupervisorLost):
            client.stream("echo", buffer_id="b")
    with plain.bus.running(journal=journal, workers=1) as client:
        with client.stream("echo", buffer_id="b") as stream:
            assert stream.received == 1
            stream.put("b")
        assert stream.wait(60).successful == 2


@pytest.mark.slow
def test_a_client_that_closes_in_the_block_leaves_it_open(
    journal: Path, own_facts: Facts, run_log: RunLog
) -> None:
    with Service(journal, workers=1) as service:
        client = service.client()
        stream = client.stream("echo", buffer_id="b")
        stream.put("a")
        stream.flush()
        client.close()
        with service.client() as other:
            with until(lambda: gone_on(other), "the first has gone") as more:
                assert more.received == 1
                more.put("b")
            assert more.wait(60).successful == 2
    assert run_log.times()[0] == 1
    own_facts.assert_whole("b", 2)


def gone_on(client: Client) -> Stream | None:
    try:
        return client.stream("echo", buffer_id="b")
    except BufferError:
        return None


@pytest.mark.slow
def test_an_interrupted_producer_leaves_what_it_has_put(
    tmp_path: Path, journal: Path, own_facts: Facts
) -> None:
    with Service(journal, workers=1, verbose=False):
        producer = program(tmp_path / "producer.py", PRODUCER, str(journal), "b", str(10**9))
        own_facts.until("SELECT total > 5000 FROM buffers")
        producer.send_signal(signal.SIGINT)
        code, out, err = outcome(producer)
        assert (code, out) == (-signal.SIGINT, "")
        assert err.strip().endswith("KeyboardInterrupt")
        total = own_facts.value("SELECT total FROM buffers")
        assert items_of(own_facts, "b") == [f"item {number}" for number in range(total)]
        assert not is_sealed(own_facts, "b")
        producer = program(tmp_path / "producer.py", PRODUCER, str(journal), "b", str(total + 10))
        assert outcome(producer) == (0, "", "")
        own_facts.until("SELECT state = 'complete' FROM buffers")
    own_facts.assert_whole("b", total + 10)


@pytest.mark.slow
def test_on_a_full_disk_put_is_refused_and_the_stream_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        journal = disk.folder / "journal.db"
        own_facts, flushed = Facts(journal), 0
        with Service(journal, workers=1) as service, service.client() as client:
            with pytest.raises(DurableBusError, match="no room on disk"):
                with client.stream("echo", buffer_id="b") as stream:
                    while True:
                        stream.put(f"item {flushed}")
                        stream.flush()
                        flushed += 1
                        if flushed == 10:
                            disk.fill()
            assert not is_sealed(own_facts, "b")
            disk.empty()
            with client.stream("echo", buffer_id="b") as stream:
                assert stream.received == flushed
                stream.put(f"item {flushed}")
            assert stream.wait(60).successful == flushed + 1
        assert items_of(own_facts, "b") == [f"item {number}" for number in range(flushed + 1)]
        own_facts.assert_whole("b", flushed + 1)
        assert is_clean(journal)
