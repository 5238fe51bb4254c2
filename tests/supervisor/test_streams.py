"""A stream is worked on from its first chunk on, and ends when it is sealed and done: by raw frames."""

from pathlib import Path

import pytest
from services import Service, works
from streams import Connections, Producer, chunks, completions, refusal, row_of
from support import Facts, RunLog, now_ms

from durable_bus.journal.admin.check import check

pytestmark = pytest.mark.slow


# It begins at once, and ends once


def test_the_first_items_run_before_the_seal_and_the_completion_comes_with_it(
    streaming: Service, connect: Connections, facts: Facts
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
    streaming: Service, connect: Connections, facts: Facts, tmp_path: Path
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
    streaming: Service, connect: Connections, facts: Facts
) -> None:
    producer = Producer(connect(), "b", collect=False)
    producer.start()
    producer.put("a")
    facts.until_recorded("b", 1)
    producer.seal()
    assert producer.until_ended() == "b"
    assert (row_of(facts)["state"], completions(facts)) == ("complete", 0)


def test_a_seal_that_is_repeated_is_answered_again(
    streaming: Service, connect: Connections, facts: Facts
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


# Cancel, pause, prune


def test_a_cancel_ends_it_and_what_had_come_is_its_total(
    streaming: Service, connect: Connections, facts: Facts, tmp_path: Path
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
    with streaming.client() as client:
        assert client.retry("b").wait(60).total == 2


def test_a_seal_of_one_that_was_cancelled_says_so(
    streaming: Service, connect: Connections, facts: Facts
) -> None:
    producer = Producer(connect(), "b")
    producer.start()
    producer.put("a")
    assert connect().ask("cancel", buffer_id="b")["state"] == "cancelled"
    assert refusal(producer.seal()) == "BufferError: it was cancelled while its items arrived"


@pytest.mark.parametrize("stream", [True, False])
def test_a_seal_of_one_that_was_cancelled_before_it_opened_says_so_too(
    journal: Path, connect: Connections, facts: Facts, stream: bool
) -> None:
    """Its row has gone by then: that ended the supervisor."""
    with Service(journal, housekeeping_s=0.05):
        producer = Producer(connect(), "b", stream=stream)
        producer.start()
        connect().ask("cancel", buffer_id="b")
        facts.until("SELECT count(*) = 0 FROM buffer")
        assert refusal(producer.seal(1)) == "BufferError: it was cancelled while its items arrived"


def test_while_it_is_paused_items_come_and_nothing_is_handed_out(
    streaming: Service, connect: Connections, facts: Facts
) -> None:
    producer, raw = Producer(connect(), "b"), connect()
    producer.start()
    producer.put("a")
    facts.until_recorded("b", 1)
    assert raw.ask("pause", buffer_id="b")["paused"]
    producer.put("b")
    producer.seal()
    with streaming.client() as client:
        assert works(client)
    assert (facts.recorded("b"), row_of(facts)["paused"]) == (1, 1)
    raw.ask("resume", buffer_id="b")
    producer.until_ended()
    facts.assert_whole("b", 2)


def test_prune_takes_its_chunks_and_leaves_its_row(
    streaming: Service, connect: Connections, facts: Facts
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
    with streaming.client() as client:
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
