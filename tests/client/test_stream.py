"""Streams: items that are put one by one run while more are put, and none is lost or there twice."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apps import plain
from streams_seen import is_sealed, items_of
from support import Facts

from durable_bus import BufferError, Json, Xml
from durable_bus.client.client import Client
from durable_bus.client.stream import Stream
from durable_bus.errors import LimitExceeded, NotFound, TimedOut, UsageError


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with plain.bus.running(journal=tmp_path_factory.mktemp("stream") / "journal.db", workers=2) as client:
        yield client


@pytest.fixture
def facts(client: Client) -> Facts:
    return Facts(client.journal)


@pytest.fixture
def own_facts(journal: Path) -> Facts:
    return Facts(journal)


class Left(Exception):
    """What leaves a block in these tests."""


def left(client: Client, buffer_id: str, items: list[str], target: str = "echo", **options: Any) -> Stream:
    with pytest.raises(Left), client.stream(target, buffer_id=buffer_id, **options) as stream:
        for item in items:
            stream.put(item)
        raise Left
    return stream


# Putting


def test_what_is_put_is_there_in_its_order_and_sealed(client: Client, facts: Facts) -> None:
    items = [f"item {index}" for index in range(25_000)]
    with client.stream("echo", buffer_id="order") as stream:
        assert (stream.received, stream.existed, stream.sealed) == (0, False, False)
        for item in items:
            stream.put(item)
        stream.flush()
        assert stream.received == 25_000
        assert not is_sealed(facts, "order")
    assert stream.sealed
    assert is_sealed(facts, "order")
    assert stream.wait(100).successful == 25_000
    assert items_of(facts, "order") == items
    facts.assert_whole("order", 25_000)
    assert [result.payload for result in stream.results()] == items
    assert stream.status().total == 25_000


def test_an_item_is_in_the_form_that_start_would_give_it(client: Client, facts: Facts) -> None:
    items: list[Any] = ["a", "<a/>", None, {"a": 1}, 7, Json("x"), Xml("<b/>"), ""]
    client.start("echo", items, buffer_id="forms-started")
    with client.stream("echo", buffer_id="forms") as stream:
        for item in items:
            stream.put(item)
    sql = "SELECT payload, form FROM items WHERE buffer_id = ? ORDER BY item_index"
    assert facts.rows(sql, "forms") == facts.rows(sql, "forms-started")


def test_a_lone_item_goes_out_at_once(client: Client) -> None:
    """Nothing flushes, nothing else is put."""
    with client.stream("echo", buffer_id="lone") as stream:
        results = stream.as_completed(60)
        for number in range(5):
            stream.put(str(number))
            assert next(results).payload == str(number)
    assert list(results) == []


def test_an_item_that_cannot_be_journaled_is_refused_and_the_next_is_taken(
    client: Client, facts: Facts
) -> None:
    with client.stream("echo", buffer_id="refused") as stream:
        stream.put("a")
        for item, error in (
            ({1}, UsageError),
            ("a\0", UsageError),
            ("\ud800", UsageError),
            ("x" * 8_388_609, LimitExceeded),
        ):
            with pytest.raises(error, match=r"^item 1: "):
                stream.put(item)
        stream.put("b")
    assert items_of(facts, "refused") == ["a", "b"]


def test_large_items_go_one_by_one(client: Client, facts: Facts) -> None:
    with client.stream("echo", buffer_id="large") as stream:
        for number in range(6):
            stream.put(str(number) * 3_000_000)
    assert stream.wait(100).successful == 6
    assert [item[:1] for item in items_of(facts, "large")] == [*"012345"]


def test_many_threads_put_into_one_stream(client: Client, facts: Facts) -> None:
    with client.stream("echo", buffer_id="threads") as stream:

        def put(thread: int) -> None:
            for number in range(2_000):
                stream.put(f"{thread} {number}")

        threads = [threading.Thread(target=put, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
    assert stream.wait(100).successful == 16_000
    items = items_of(facts, "threads")
    for number in range(8):
        own = [item for item in items if item.startswith(f"{number} ")]
        assert own == [f"{number} {index}" for index in range(2_000)]


def test_flush_does_not_wait_for_what_others_go_on_to_put(client: Client) -> None:
    flushed = threading.Event()
    with client.stream("echo", buffer_id="flushing") as stream:

        def put() -> None:
            while not flushed.is_set():
                stream.put("a")

        putting = threading.Thread(target=put)
        putting.start()
        for _ in range(20):
            stream.put("mine")
            stream.flush()
        flushed.set()
        putting.join(100)
    ended = stream.wait(100)
    assert ended.successful == ended.total >= 20


# How far ahead


@pytest.mark.parametrize("ahead", [1, 3])
def test_put_waits_while_so_many_are_not_done(
    client: Client, facts: Facts, tmp_path: Path, ahead: int
) -> None:
    buffer_id, door = f"ahead-{ahead}", tmp_path / "door"
    with client.stream("gate", buffer_id=buffer_id, ahead=ahead) as stream:
        for _ in range(ahead):
            stream.put(str(door))
        for timeout in (0, 0.05):
            with pytest.raises(TimedOut, match=f"{ahead} items of {buffer_id} are not done yet"):
                stream.put("x", timeout=timeout)
        stream.flush()
        assert len(items_of(facts, buffer_id)) == ahead, "what has timed out was not put"
        door.touch()
        for _ in range(20):
            stream.put(str(door))
            total, done = facts.rows("SELECT total, completed FROM buffers WHERE buffer_id = ?", buffer_id)[0]
            assert total - done <= ahead
    assert stream.wait(60).successful == ahead + 20


def test_threads_do_not_put_more_than_that_together(client: Client, facts: Facts, tmp_path: Path) -> None:
    door = tmp_path / "door"
    with client.stream("gate", buffer_id="ahead-threads", ahead=5) as stream:
        begun = threading.Barrier(8)

        def put() -> None:
            begun.wait(60)
            try:
                while True:
                    stream.put(str(door), timeout=0.2)
            except TimedOut:
                pass

        threads = [threading.Thread(target=put) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        stream.flush()
        assert len(items_of(facts, "ahead-threads")) == 5
        door.touch()
    assert stream.wait(60).successful == 5


def test_failed_items_are_done(client: Client) -> None:
    with client.stream("sleep", buffer_id="failing", ahead=2) as stream:
        for _ in range(10):
            stream.put("no number")
    assert stream.wait(60).successful == 0
    assert stream.status().failed == 10


@pytest.mark.parametrize("ahead", [0, -1, True, 1.5, None])
def test_an_ahead_that_cannot_be_is_refused(client: Client, ahead: Any) -> None:
    with pytest.raises(UsageError, match="is not a whole number of at least 1"):
        client.stream("echo", buffer_id="x", ahead=ahead)
    with pytest.raises(NotFound):
        client.buffer("x")


# Ends


def test_a_block_left_with_an_exception_leaves_it_open_with_what_was_put(
    client: Client, facts: Facts
) -> None:
    stream = left(client, "open", ["a", "b"])
    assert items_of(facts, "open") == ["a", "b"]
    assert not stream.sealed
    assert not is_sealed(facts, "open")
    for more in (lambda: stream.put("c"), stream.flush, stream.seal):
        with pytest.raises(UsageError, match="the stream open was left"):
            more()
    facts.until_recorded("open", 2)
    assert client.buffer("open").status().state == "open"
    with pytest.raises(TimedOut):
        client.buffer("open").wait(0.05)
    with client.stream("echo", buffer_id="open") as more_of_it:
        assert (more_of_it.received, more_of_it.existed, more_of_it.sealed) == (2, True, False)
        more_of_it.put("c")
    assert more_of_it.wait(60).successful == 3
    assert items_of(facts, "open") == ["a", "b", "c"]
    facts.assert_whole("open", 3)


def test_a_stream_that_was_left_with_nothing_is_not_there(client: Client, facts: Facts) -> None:
    left(client, "nothing", [])
    facts.until("SELECT count(*) = 0 FROM buffers WHERE buffer_id = 'nothing'")
    assert client.start("echo", ["a"], buffer_id="nothing").wait(60).successful == 1


def test_an_empty_seal_is_refused_and_nothing_is_there(client: Client, facts: Facts) -> None:
    with pytest.raises(BufferError, match="empty: No items specified"):
        with client.stream("echo", buffer_id="empty"):
            pass
    assert facts.value("SELECT count(*) FROM buffers WHERE buffer_id = 'empty'") == 0
    left(client, "empty", ["a"])
    with client.stream("echo", buffer_id="empty") as stream:
        pass
    assert stream.wait(60).successful == 1


def test_a_sealed_stream_is_given_again_and_takes_nothing_more(client: Client, facts: Facts) -> None:
    with client.stream("echo", buffer_id="sealed") as stream:
        stream.put("a")
        stream.seal()
        with pytest.raises(BufferError, match="sealed: it is sealed: no more items can be put"):
            stream.put("b")
        stream.seal()
    with client.stream("echo", buffer_id="sealed") as again:
        assert (again.sealed, again.existed, again.received) == (True, True, 1)
        with pytest.raises(BufferError, match="it is sealed"):
            again.put("b")
    assert again.wait(60).successful == 1
    assert items_of(facts, "sealed") == ["a"]
    assert facts.value("SELECT count(*) FROM messages WHERE message_id = 'sealed/complete'") == 1


def test_a_cancelled_stream_takes_nothing_more(client: Client, tmp_path: Path) -> None:
    with pytest.raises(BufferError, match="cancelled: it was cancelled"):
        with client.stream("gate", buffer_id="cancelled", ahead=1) as stream:
            stream.put(str(tmp_path / "door"))
            stream.flush()
            client.cancel("cancelled")
            (tmp_path / "door").touch()
            stream.put("b")
            stream.flush()
    with pytest.raises(BufferError, match="it was cancelled"):
        client.stream("gate", buffer_id="cancelled")
    assert client.buffer("cancelled").wait(60).total == 1


def test_a_stream_that_is_cancelled_in_a_block_cannot_be_sealed(client: Client) -> None:
    with pytest.raises(BufferError, match="it was cancelled"):
        with client.stream("echo", buffer_id="cancelled-sealing") as stream:
            stream.put("a")
            stream.flush()
            client.cancel("cancelled-sealing")


@pytest.mark.parametrize("options", [{"collect": False}, {"return_to": "echo"}, {"target": "gate"}])
def test_an_id_of_another_start_is_refused(client: Client, options: dict[str, Any]) -> None:
    left(client, f"taken-{next(iter(options))}", ["a"])
    with pytest.raises(BufferError, match="with other target, collect or return_to"):
        client.stream(**{"target": "echo", "buffer_id": f"taken-{next(iter(options))}", **options})


def test_a_start_and_a_stream_of_one_id(client: Client) -> None:
    left(client, "open-stream", ["a"])
    with pytest.raises(BufferError, match="it is a stream that is not sealed"):
        client.start("echo", ["a"], buffer_id="open-stream")
    client.start("echo", ["a"], buffer_id="started")
    assert client.stream("echo", buffer_id="started").sealed


@pytest.mark.parametrize("target", ["nobody", "", "a b"])
def test_an_unknown_target_is_refused_at_once(client: Client, target: str) -> None:
    with pytest.raises(BufferError):
        client.stream(target, buffer_id="unknown-target")
    with pytest.raises(NotFound):
        client.buffer("unknown-target")


# Following one that is not sealed


def test_following_a_stream_that_is_not_sealed(client: Client) -> None:
    with client.stream("echo", buffer_id="followed") as stream:
        stream.put("a")
        results = stream.as_completed(60)
        assert next(results).payload == "a"
        with pytest.raises(TimedOut):
            stream.wait(0.05)
        with pytest.raises(TimedOut):
            list(client.buffer("followed").as_completed(0.05))
        assert [result.payload for result in stream.results(with_items=True)] == ["a"]
        status = stream.status()
        assert (status.state, status.total, status.completed, status.pending) == ("open", 1, 1, 0)
        stream.put("b")
        assert next(results).payload == "b"
        waited: list[int] = []
        waiting = threading.Thread(target=lambda: waited.append(client.buffer("followed").wait(60).total))
        waiting.start()
    assert list(results) == []
    waiting.join(60)
    assert waited == [2]


def test_its_end_comes_with_the_seal_when_all_is_done_before(client: Client, facts: Facts) -> None:
    with client.stream("echo", buffer_id="late-seal") as stream:
        stream.put("a")
        facts.until_recorded("late-seal", 1)
        assert facts.value("SELECT count(*) FROM messages WHERE message_id = 'late-seal/complete'") == 0
    assert facts.value("SELECT count(*) FROM messages WHERE message_id = 'late-seal/complete'") == 1


# Two producers


def test_two_producers_at_a_time_are_refused(client: Client, facts: Facts) -> None:
    with client.stream("echo", buffer_id="two") as first:
        for _ in range(2):
            with pytest.raises(BufferError, match="two: another client is sending its items just now"):
                client.stream("echo", buffer_id="two")
            first.put("a")
            first.flush()
    assert first.wait(60).successful == 2
