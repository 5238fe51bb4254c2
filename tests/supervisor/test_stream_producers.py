"""A stream has one producer at a time, and what is refused costs nothing that has come: by raw frames."""

from typing import Any

import pytest
from services import Service
from streams import Connections, Producer, refusal, row_of
from support import Facts, RunLog

pytestmark = pytest.mark.slow


# Who sends


def test_a_second_producer_is_refused_and_the_first_goes_on(
    streaming: Service, connect: Connections, facts: Facts
) -> None:
    first, second = Producer(connect(), "b"), Producer(connect(), "b", request="other")
    for items in ([], ["a"]):
        first.start()
        for item in items:
            first.put(item)
        assert refusal(second.start()) == "BufferError: another client is sending its items just now"
    first.put("b")
    assert first.seal()["total"] == 2
    first.until_ended()
    facts.assert_whole("b", 2)


def test_a_producer_whose_connection_broke_goes_on_where_it_was(
    streaming: Service, connect: Connections, facts: Facts, run_log: RunLog
) -> None:
    producer = Producer(connect(), "b")
    producer.start()
    producer.put("a", "b")
    producer.raw.socket.close()
    told = producer.start(connect(), again=True)
    assert (told["next_chunk"], told["received"], told["existing"]) == (1, 2, False)
    assert producer.put("a", "b", number=0)["next_chunk"] == 1, "it is there already"
    producer.put("c")
    producer.seal()
    producer.until_ended()
    facts.assert_whole("b", 3)
    assert sorted(run_log.indexes()) == [0, 1, 2]


def test_another_goes_on_behind_what_has_come_and_the_one_before_is_refused(
    streaming: Service, connect: Connections, facts: Facts
) -> None:
    old, new = Producer(connect(), "b"), Producer(connect(), "b", request="other")
    old.start()
    old.put("a", "b")
    old.raw.socket.close()
    told = new.start()
    assert (told["next_chunk"], told["received"], told["existing"]) == (1, 2, False)
    assert "BufferError: another client" in refusal(old.start(connect(), again=True))
    new.put("c")
    new.raw.socket.close()
    gone_on = "BufferError: another client has gone on with this stream meanwhile"
    assert refusal(old.start(connect(), again=True)) == gone_on
    assert new.start(connect(), again=True)["received"] == 3
    new.put("d")
    new.seal()
    new.until_ended()
    facts.assert_whole("b", 4)
    answers = facts.rows("SELECT payload FROM results ORDER BY item_index")
    assert [text for (text,) in answers] == ["a", "b", "c", "d"]
    assert facts.value("SELECT digest IS NULL FROM buffer") == 1


@pytest.mark.parametrize("other", [{"target": "sleep"}, {"collect": False}, {"return_to": "cli"}])
def test_who_wants_another_buffer_does_not_go_on_with_this_one(
    streaming: Service, connect: Connections, facts: Facts, other: dict[str, Any]
) -> None:
    connect("cli").socket.close()
    producer = Producer(connect(), "b")
    producer.start()
    producer.put("a")
    producer.raw.socket.close()
    told = Producer(connect(), "b", request="other", **other).start()
    assert refusal(told).endswith("this id is used already, with other target, collect or return_to")
    producer.start(connect())
    producer.seal()
    producer.until_ended()
    facts.assert_whole("b", 1)


def test_whole_starts_with_the_id_of_an_unsealed_stream_are_refused(
    streaming: Service, connect: Connections, facts: Facts
) -> None:
    producer, raw = Producer(connect(), "b"), connect()
    producer.start()
    producer.put("a")
    whole = {"buffer_id": "b", "target": "echo", "collect": True}
    for told in (
        raw.ask("start", **whole),
        raw.ask("submit", b"a\0", **whole, count=1, forms="0", digest="d"),
    ):
        assert refusal(told) == "BufferError: it is a stream that is not sealed"
    producer.put("b")
    producer.seal()
    producer.until_ended()
    facts.assert_whole("b", 2)


def test_a_stream_does_not_come_in_one_frame(streaming: Service, connect: Connections, facts: Facts) -> None:
    whole = {"buffer_id": "b", "target": "echo", "collect": True, "stream": True}
    told = connect().ask("submit", b"a\0", **whole, count=1, forms="0", digest="d")
    assert refusal(told) == "UsageError: the items of a stream come in chunks"
    assert facts.rows("SELECT * FROM buffers") == []


def test_what_a_whole_start_has_left_under_its_request_is_no_part_of_a_stream(
    streaming: Service, connect: Connections, facts: Facts
) -> None:
    whole = Producer(connect(), "b", stream=False)
    whole.start()
    whole.put("a")
    whole.raw.socket.close()
    stream = Producer(connect(), "b")
    assert stream.start()["next_chunk"] == 0
    stream.put("b")
    stream.seal()
    stream.until_ended()
    facts.assert_whole("b", 1)


# What is refused costs nothing that has come


def test_an_empty_seal_is_refused_and_the_id_is_free_again(
    streaming: Service, connect: Connections, facts: Facts
) -> None:
    producer = Producer(connect(), "b")
    producer.start()
    assert refusal(producer.seal(0)) == "BufferError: No items specified"
    assert facts.rows("SELECT * FROM buffers") == []
    with streaming.client() as client:
        assert client.start("echo", ["a"], buffer_id="b").wait(60).successful == 1


def test_one_that_is_abandoned_leaves_what_has_come_of_it(
    streaming: Service, connect: Connections, facts: Facts
) -> None:
    early, late = Producer(connect(), "early"), Producer(connect(), "late", request="late")
    early.start()
    early.abandon()
    late.start()
    late.put("a")
    late.abandon()
    facts.until("SELECT count(*) = 0 FROM buffers WHERE buffer_id = 'early'")
    assert row_of(facts, "late")["state"] == "open"
    late.start()
    assert (late.received, late.put("b")["k"]) == (1, "received")
    late.seal()
    late.until_ended()
    facts.assert_whole("late", 2)


def test_a_chunk_that_is_none_and_a_wrong_total_are_refused_and_what_has_come_stays(
    streaming: Service, connect: Connections, facts: Facts
) -> None:
    producer = Producer(connect(), "b")
    producer.start()
    assert refusal(producer.put("a", count=7)).startswith("UsageError: a chunk said to hold 7 items")
    assert facts.rows("SELECT * FROM buffers") == []
    for wrong in (lambda: producer.put("b", count=7), lambda: producer.seal(2), lambda: producer.seal(0)):
        producer.start()
        if not producer.received:
            producer.put("a")
        assert refusal(wrong())
        assert row_of(facts)["total"] == 1
    assert producer.start()["received"] == 1
    producer.put("b")
    producer.seal()
    producer.until_ended()
    facts.assert_whole("b", 2)


def test_a_killed_producer_leaves_it_to_the_next(
    streaming: Service, connect: Connections, facts: Facts
) -> None:
    """Half a frame had come of it."""
    producer = Producer(connect(), "b")
    producer.start()
    producer.put("a")
    producer.raw.write(b"\0\0\0\xff\0")
    producer.raw.socket.close()
    other = Producer(connect(), "b", request="other")
    assert other.start()["received"] == 1
    other.put("b")
    other.seal()
    other.until_ended()
    facts.assert_whole("b", 2)
