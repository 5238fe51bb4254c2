"""A stream is worked on from its first chunk on, and ends when it is sealed and done: by raw frames."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from services import Raw, Service, works
from streams import Producer, greeted, refusal
from support import Facts, RunLog, now_ms

from durable_bus.journal.admin.check import check

pytestmark = pytest.mark.slow


@pytest.fixture
def service(journal: Path, run_log: RunLog) -> Iterator[Service]:
    with Service(journal) as service:
        yield service
    assert [finding for finding in check(journal).checks if not finding.ok] == []


class Connections:
    """To one daemon: greeted, and closed in the end."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self.stack = ExitStack()

    def __call__(self, name: str | None = None) -> Raw:
        return greeted(self.stack.enter_context(Raw(self._journal)), name)


@pytest.fixture
def connect(journal: Path) -> Iterator[Connections]:
    connections = Connections(journal)
    with connections.stack:
        yield connections


def row_of(facts: Facts, buffer_id: str = "b") -> dict[str, Any]:
    (row,) = facts.dicts("SELECT * FROM buffers WHERE buffer_id = ?", buffer_id)
    return row


def completions(facts: Facts) -> int:
    return int(facts.value("SELECT count(*) FROM messages WHERE kind = 'BufferComplete'"))


def chunks(facts: Facts) -> list[tuple[int, int]]:
    return facts.rows("SELECT first_index, item_count FROM chunk ORDER BY buffer_seq, first_index")


# It begins at once, and ends once


def test_the_first_items_run_before_the_seal_and_the_completion_comes_with_it(
    service: Service, connect: Connections, facts: Facts
) -> None:
    producer = Producer(connect("cli"), "b")
    assert producer.start()["k"] == "receiving"
    assert row_of(facts)["state"] == "receiving"
    for count, items in ((2, ["a", "b"]), (3, ["c"])):
        assert producer.put(*items)["k"] == "received"
        facts.until_recorded("b", count)
        row = row_of(facts)
        assert (row["state"], row["total"], row["pending"], row["sealed_at"]) == ("open", count, 0, None)
    assert (completions(facts), producer.ended) == (0, [])
    opened = producer.seal()
    assert (opened["k"], opened["total"], opened["existed"]) == ("opened", 3, False)
    assert producer.until_ended() == "b"
    facts.assert_whole("b", 3)
    assert row_of(facts)["sealed_at"] == row_of(facts)["completed_at"]
    assert facts.value("SELECT to_id FROM messages") == "cli"
    assert "<total>3</total>" in facts.value("SELECT payload FROM messages")
    assert chunks(facts) == [(0, 2), (2, 1)]


def test_the_completion_comes_with_the_last_result_where_that_is_later(
    service: Service, connect: Connections, facts: Facts, tmp_path: Path
) -> None:
    producer = Producer(connect(), "b", target="gate")
    producer.start()
    producer.put("", str(tmp_path / "gate"))
    facts.until_recorded("b", 1)
    assert producer.seal()["k"] == "opened"
    row = row_of(facts)
    assert (row["state"], row["pending"], row["sealed_at"] is None) == ("open", 1, False)
    assert (completions(facts), producer.ended) == (0, [])
    (tmp_path / "gate").touch()
    assert producer.until_ended() == "b"
    facts.assert_whole("b", 2)


def test_one_that_nobody_collects_ends_with_its_seal_too(
    service: Service, connect: Connections, facts: Facts
) -> None:
    producer = Producer(connect(), "b", collect=False)
    producer.start()
    producer.put("a")
    facts.until_recorded("b", 1)
    producer.seal()
    assert producer.until_ended() == "b"
    assert (row_of(facts)["state"], completions(facts)) == ("complete", 0)


def test_a_seal_that_is_repeated_is_answered_again(
    service: Service, connect: Connections, facts: Facts
) -> None:
    """Its answer was lost, with the connection."""
    producer = Producer(connect(), "b")
    producer.start()
    producer.put("a")
    opened = producer.seal()
    producer.raw.socket.close()
    assert producer.start(connect(), again=True)["existing"]
    assert producer.seal() == opened
    assert producer.until_ended() == "b"
    other = Producer(connect(), "b", request="other")
    assert other.start()["existing"]
    assert other.seal(1)["existed"]
    facts.assert_whole("b", 1)


# Who sends


def test_a_second_producer_is_refused_and_the_first_goes_on(
    service: Service, connect: Connections, facts: Facts
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
    service: Service, connect: Connections, facts: Facts, run_log: RunLog
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
    service: Service, connect: Connections, facts: Facts
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
    service: Service, connect: Connections, facts: Facts, other: dict[str, Any]
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
    service: Service, connect: Connections, facts: Facts
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


def test_a_stream_does_not_come_in_one_frame(service: Service, connect: Connections, facts: Facts) -> None:
    whole = {"buffer_id": "b", "target": "echo", "collect": True, "stream": True}
    told = connect().ask("submit", b"a\0", **whole, count=1, forms="0", digest="d")
    assert refusal(told) == "UsageError: the items of a stream come in chunks"
    assert facts.rows("SELECT * FROM buffers") == []


def test_what_a_whole_start_has_left_under_its_request_is_no_part_of_a_stream(
    service: Service, connect: Connections, facts: Facts
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
    service: Service, connect: Connections, facts: Facts
) -> None:
    producer = Producer(connect(), "b")
    producer.start()
    assert refusal(producer.seal(0)) == "BufferError: No items specified"
    assert facts.rows("SELECT * FROM buffers") == []
    with service.client() as client:
        assert client.start("echo", ["a"], buffer_id="b").wait(60).successful == 1


def test_one_that_is_abandoned_leaves_what_has_come_of_it(
    service: Service, connect: Connections, facts: Facts
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
    service: Service, connect: Connections, facts: Facts
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


# Cancel, pause, prune


def test_a_cancel_ends_it_and_what_had_come_is_its_total(
    service: Service, connect: Connections, facts: Facts, tmp_path: Path
) -> None:
    producer, raw = Producer(connect(), "b", target="gate"), connect()
    producer.start()
    producer.put("", str(tmp_path / "gate"), str(tmp_path / "gate"))
    facts.until_recorded("b", 1)
    assert raw.ask("cancel", buffer_id="b")["state"] == "cancelled"
    row = row_of(facts)
    assert (row["state"], row["total"], row["completed"], row["sealed_at"]) == ("cancelled", 3, 1, None)
    assert "<total>3</total>" in facts.value("SELECT payload FROM messages")
    assert refusal(producer.put("d")) == "BufferError: it was cancelled while its items arrived"
    assert refusal(producer.start()) == "BufferError: it was cancelled"
    (tmp_path / "gate").touch()
    facts.until("SELECT count(*) = 0 FROM in_flight")
    assert [state for (state,) in facts.rows("SELECT state FROM items")] == ["succeeded", *["missing"] * 2]
    with service.client() as client:
        assert client.retry("b").wait(60).total == 2


def test_a_seal_of_one_that_was_cancelled_says_so(
    service: Service, connect: Connections, facts: Facts
) -> None:
    producer = Producer(connect(), "b")
    producer.start()
    producer.put("a")
    assert connect().ask("cancel", buffer_id="b")["state"] == "cancelled"
    assert refusal(producer.seal()) == "BufferError: it was cancelled while its items arrived"


def test_while_it_is_paused_items_come_and_nothing_is_handed_out(
    service: Service, connect: Connections, facts: Facts
) -> None:
    producer, raw = Producer(connect(), "b"), connect()
    producer.start()
    producer.put("a")
    facts.until_recorded("b", 1)
    assert raw.ask("pause", buffer_id="b")["paused"]
    producer.put("b")
    producer.seal()
    with service.client() as client:
        assert works(client)
    assert (facts.recorded("b"), row_of(facts)["paused"]) == (1, 1)
    raw.ask("resume", buffer_id="b")
    producer.until_ended()
    facts.assert_whole("b", 2)


def test_prune_takes_its_chunks_and_leaves_its_row(
    service: Service, connect: Connections, facts: Facts
) -> None:
    for buffer_id in ("b", "unsealed"):
        producer = Producer(connect(), buffer_id, request=buffer_id)
        producer.start()
        for number in range(5):
            producer.put(*[f"{number}"] * 100)
    producer = Producer(connect(), "cancelled", request="cancelled")
    producer.start()
    producer.put("a")
    connect().ask("cancel", buffer_id="cancelled")
    done = Producer(connect(), "b", request="other")
    assert "another client" in refusal(done.start())
    connect.stack.close()
    assert done.start(connect())["received"] == 500
    done.seal()
    done.until_ended()
    with service.client() as client:
        assert client.prune(now_ms() + 1000) == 2
    facts.until("SELECT count(*) = 500 FROM item")
    assert chunks(facts) == [(n * 100, 100) for n in range(5)]
    for buffer_id, total in (("b", 500), ("cancelled", 1)):
        row = row_of(facts, buffer_id)
        assert (row["state"], row["total"]) == ("pruned", total)


# Whatever is killed


def test_a_kill_leaves_it_open_with_all_that_had_come(
    journal: Path, connect: Connections, facts: Facts, run_log: RunLog, tmp_path: Path
) -> None:
    """It waits for a producer, however long, while a whole start whose client has vanished is given up."""
    gate = tmp_path / "gate"
    with Service(journal, receiving_timeout_ms=1, housekeeping_s=0.05) as service:
        producer = Producer(connect(), "b", target="gate")
        producer.start()
        producer.put(*[""] * 10)
        facts.until_recorded("b", 10)
        producer.put(*[str(gate)] * 10)
        facts.until("SELECT count(*) FROM in_flight")
        before = facts.rows("SELECT item_index, payload, recorded_at FROM results"), chunks(facts)
        service.restart()
        service.until_serving()
        whole = Producer(connect(), "whole", request="whole", stream=False)
        whole.start()
        whole.put("a")
        whole.raw.socket.close()
        service.until_logged("buffer given up.*whole")
        row = row_of(facts)
        assert (row["state"], row["total"], row["completed"], row["sealed_at"]) == ("open", 20, 10, None)
        assert (facts.rows("SELECT item_index, payload, recorded_at FROM results"), chunks(facts)) == before
        assert producer.start(connect(), again=True)["received"] == 20
        producer.put(*[""] * 10)
        gate.touch()
        facts.until_recorded("b", 30)
        assert completions(facts) == 0
        service.restart()
        service.until_serving()
        assert producer.start(connect(), again=True)["received"] == 30
        producer.seal()
        assert producer.until_ended() == "b"
        facts.assert_whole("b", 30)
    assert {index: n for index, n in run_log.times().items() if index < 10} == dict.fromkeys(range(10), 1)
    assert check(journal).ok


def test_a_killed_producer_leaves_it_to_the_next(
    service: Service, connect: Connections, facts: Facts
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
