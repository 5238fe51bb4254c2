"""Cancel, pause, resume and retry: each idempotent, each kept over restarts."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import Raw, Service, connected, stopped
from support import Facts, RunLog, buffer_states, now_ms, until

from durable_bus import BufferError
from durable_bus.client.buffer_ids import next_retry_id
from durable_bus.client.upload import BATCH_ITEMS
from durable_bus.errors import NotFound
from durable_bus.journal.reader import BufferContent
from durable_bus.wire.framing import encode
from durable_bus.wire.protocol import Cancel


def completes(facts: Facts, buffer_id: str) -> list[tuple[str, str]]:
    """(message id, payload) of its BufferCompletes."""
    rows = facts.rows(
        "SELECT message_id, payload FROM messages WHERE kind = 'BufferComplete' ORDER BY created_at"
    )
    return [(message_id, payload) for message_id, payload in rows if message_id.startswith(f"{buffer_id}/")]


# cancel


def test_cancel_ends_a_buffer_as_it_is_and_tells_once(journal: Path, facts: Facts, run_log: RunLog) -> None:
    door = journal.parent / "door"
    with Service(journal) as service, service.client() as client:
        buffer = client.start("gate", [*[""] * 20, *[str(door)] * 22], buffer_id="b")
        until(lambda: len(run_log.runs()) == 22, "both workers wait for the door")
        facts.until_recorded("b", 20)
        assert client.cancel("b") == "cancelled"
        complete = buffer.wait(60)
        recorded = facts.recorded("b")
        assert complete.total == 42
        assert complete.successful == recorded == 20
        items = dict(facts.rows("SELECT state, count(*) FROM items GROUP BY state"))
        assert items == {"succeeded": recorded, "missing": 42 - recorded}
        assert complete.results.count('success="false" missing="true"') == 42 - recorded
        assert client.cancel("b") == "cancelled"
        door.touch()
        assert client.start("echo", ["a"] * 100).wait(60).successful == 100
        assert facts.recorded("b") == recorded  # what still ran was told too late
        service.restart()
        with connected(journal) as client:
            assert client.cancel("b") == "cancelled"
    assert len(completes(facts, "b")) == 1
    assert facts.failures("b") == []
    assert facts.rows("SELECT * FROM in_flight") == []


@pytest.mark.slow
def test_a_result_of_the_same_turn_as_the_cancel_is_recorded_first(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    """Both wait for a supervisor that is stopped: the answer in its worker's pipe, the request in the
    socket.
    """
    door = journal.parent / "door"
    with Service(journal, workers=1) as service, service.client() as client, Raw(journal) as raw:
        raw.hello()
        client.start("gate", [str(door)], buffer_id="b")
        run_log.until_started(0)
        (worker,) = service.workers()
        stopped(service.pid)
        raw.write(encode(Cancel("1", "b")))
        door.touch()
        until(lambda: sleeps_in_read(worker), "the worker has answered and waits for more")
        service.send(signal.SIGCONT)
        assert raw.answer()["state"] == "complete"
    assert buffer_states(facts) == {"b": "complete"}
    assert facts.recorded("b") == 1


def sleeps_in_read(pid: int) -> bool:
    """It waits for its pipe, and no thread of it has anything left to say."""
    return Path(f"/proc/{pid}/wchan").read_text() in ("pipe_read", "anon_pipe_read") or (
        Path(f"/proc/{pid}/syscall").read_text().split()[0] == "0"
    )


@pytest.mark.slow
def test_cancel_takes_along_what_its_items_have_started(journal: Path, facts: Facts) -> None:
    door = journal.parent / "door"
    with Service(journal, "apps.nesting:bus", workers=4) as service, service.client() as client:
        client.start("outer", [f"in0 {door}", "in1 "], buffer_id="b")
        client.start("inner", [str(door)], buffer_id="other")
        facts.until("SELECT count(*) = 1 FROM buffers WHERE buffer_id = 'in0' AND completed >= 1")
        facts.until("SELECT count(*) = 1 FROM buffers WHERE buffer_id = 'in1' AND state = 'complete'")
        facts.until("SELECT completed = 1 FROM buffers WHERE buffer_id = 'b'")
        assert client.cancel("b") == "cancelled"
        assert buffer_states(facts) == {
            "b": "cancelled",
            "in0": "cancelled",
            "in1": "complete",
            "other": "open",
        }
        door.touch()
        assert client.buffer("other").wait(60).successful == 1
        assert [(r.index, r.payload) for r in client.buffer("b").results()] == [(1, "3")]
    assert len(completes(facts, "in0")) == len(completes(facts, "b")) == 1


@pytest.mark.slow
def test_a_buffer_whose_items_are_still_coming_can_be_cancelled(journal: Path, facts: Facts) -> None:
    with Service(journal) as service, service.client() as client:

        def items() -> "list[str] | object":
            yield from ["a"] * (2 * BATCH_ITEMS + 1)
            facts.until("SELECT count(*) = 1 FROM buffers WHERE state = 'receiving'")
            client.cancel("b")
            yield from ["a"] * (2 * BATCH_ITEMS + 1)

        with pytest.raises(BufferError):
            client.start("echo", items(), buffer_id="b")  # type: ignore[arg-type]
        facts.until("SELECT count(*) = 0 FROM item")
        assert buffer_states(facts) == {}
        assert client.start("echo", ["a"], buffer_id="b").wait(60).successful == 1


@pytest.mark.slow
def test_cancel_of_what_still_arrives_is_told_again_and_then_there_is_no_such_buffer(
    journal: Path, facts: Facts
) -> None:
    """Its id is free again: who asks anew is told so, who only missed the answer gets that."""
    with Service(journal) as service, service.client() as client, Raw(journal) as raw:
        raw.hello()
        answers = []

        def items() -> Iterator[str]:
            yield from ["a"] * (2 * BATCH_ITEMS + 1)
            facts.until("SELECT count(*) = 1 FROM buffers WHERE state = 'receiving'")
            for request in ("1", "1", "2"):
                raw.write(encode(Cancel(request, "b")))
                answers.append(raw.answer())
            with pytest.raises(NotFound):
                client.cancel("b")
            yield "a"

        with pytest.raises(BufferError):
            client.start("echo", items(), buffer_id="b")
    assert [answer.get("state") for answer in answers] == ["gone", "gone", None]
    assert "no buffer 'b'" in str(answers[2])


@pytest.mark.slow
def test_cancel_of_what_has_ended_changes_nothing(journal: Path, facts: Facts) -> None:
    with Service(journal) as service, service.client() as client:
        client.start("echo", ["a"], buffer_id="b").wait(60)
        assert client.cancel("b") == "complete"
        with pytest.raises(NotFound, match="no buffer 'nothing'"):
            client.cancel("nothing")
    assert buffer_states(facts) == {"b": "complete"}


# pause, resume


@pytest.mark.slow
def test_a_paused_buffer_is_not_handed_out_also_after_restarts_and_others_are(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    with Service(journal) as service:
        with service.client() as client:
            client.start("sleep", ["0.002"] * 2000, buffer_id="b")
            facts.until("SELECT completed > 10 FROM buffers")
            assert client.pause("b") == "open"
            assert client.pause("b") == "open"
            facts.until("SELECT count(*) = 0 FROM in_flight")
            recorded = facts.recorded("b")
            assert recorded < 2000
        for _ in range(2):
            service.restart()
            with connected(journal) as client:
                assert client.buffer("b").status().paused
                assert client.start("describe", ["a"] * 50).wait(60).successful == 50
                assert facts.recorded("b") == recorded
                assert facts.rows("SELECT * FROM in_flight") == []
        with connected(journal) as client:
            assert client.resume("b") == "open"
            assert client.resume("b") == "open"
            assert not client.buffer("b").status().paused
            assert client.buffer("b").wait(60).successful == 2000
            assert client.pause("b") == client.resume("b") == "complete"
    assert facts.failures("b") == []
    assert max(run_log.times().values()) == 1
    assert facts.value("SELECT paused FROM buffers WHERE buffer_id = 'b'") == 0


@pytest.mark.slow
def test_a_buffer_whose_items_are_still_coming_cannot_be_paused(journal: Path, facts: Facts) -> None:
    with Service(journal) as service, service.client() as client:

        def items() -> Iterator[str]:
            yield from ["a"] * (2 * BATCH_ITEMS + 1)
            facts.until("SELECT count(*) = 1 FROM buffers WHERE state = 'receiving'")
            with pytest.raises(BufferError, match="its items are still arriving: pause it when it is open"):
                client.pause("b")
            assert client.resume("b") == "receiving"
            yield "a"

        assert client.start("echo", items(), buffer_id="b").wait(60).successful == 2 * BATCH_ITEMS + 2
    assert facts.rows("SELECT * FROM pause") == []


@pytest.mark.slow
def test_a_paused_buffer_can_be_cancelled(journal: Path, facts: Facts) -> None:
    with Service(journal) as service, service.client() as client:
        client.start("sleep", ["0.01"] * 500, buffer_id="b")
        client.pause("b")
        assert client.cancel("b") == "cancelled"
        assert client.buffer("b").wait(60).total == 500
        assert not client.buffer("b").status().paused
    assert facts.rows("SELECT state, paused, paused_why FROM buffers") == [("cancelled", 0, None)]


# retry


@pytest.mark.slow
def test_retry_starts_what_failed_and_what_is_missing_and_asked_twice_it_is_one(
    journal: Path, facts: Facts
) -> None:
    with Service(journal, "apps.unruly:bus") as service, service.client() as client:
        client.start("misbehave", ["raise", "good", "<a>", "fine"], buffer_id="b").wait(60)
        again = client.retry("b")
        assert (again.buffer_id, again.existed) == ("b.retry1", False)
        assert again.wait(60).total == 2
        assert [row for row in facts.rows("SELECT payload FROM items WHERE buffer_id = 'b.retry1'")] == [
            ("raise",),
            ("<a>",),
        ]
        assert facts.value("SELECT retry_of FROM buffers WHERE buffer_id = 'b.retry1'") == "b"
        service.restart()
        with connected(journal) as later:
            same = later.retry("b")
            assert (same.buffer_id, same.existed) == ("b.retry1", True)
            assert later.retry("b.retry1").buffer_id == "b.retry2"
    assert facts.value("SELECT count(*) FROM buffers") == 3


@pytest.fixture(scope="module")
def unruly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One daemon for all who ask for a buffer of their own."""
    with Service(tmp_path_factory.mktemp("unruly") / "journal.db", "apps.unruly:bus") as service:
        yield service


@pytest.mark.parametrize("names", [("ann", None), (None, "ann"), ("ann", "bob"), ("bob", "ann")], ids=str)
@pytest.mark.parametrize("starter", [None, "ann"], ids=["nobody", "ann"])
def test_retry_is_one_whoever_asks(
    unruly: Service, starter: str | None, names: tuple[str | None, str | None]
) -> None:
    """With and without a mailbox that the BufferComplete of the first, or of the retry, comes to."""
    first = f"b-{starter}-{names[0]}-{names[1]}"
    with unruly.client(starter) as client:
        client.start("misbehave", ["raise", "good"], buffer_id=first).wait(60)
    existed = []
    for name in names:
        with unruly.client(name) as client:
            again = client.retry(first)
            assert again.wait(60).total == 1
            existed.append(again.existed)
    assert existed == [False, True]
    return_to = unruly.facts.value("SELECT return_to FROM buffers WHERE buffer_id = ?", f"{first}.retry1")
    assert return_to == (starter or names[0] or "")


@pytest.mark.slow
def test_a_buffer_whose_id_has_no_room_for_more_can_be_retried(journal: Path, facts: Facts) -> None:
    """Ids that differ in their last letter only have different retries, each the same when asked again."""
    with Service(journal, "apps.unruly:bus") as service, service.client() as client:
        whole, *cut = ("x" * 93, "x" * 94, "x" * 99 + "a", "x" * 99 + "b")
        for buffer_id in (whole, *cut):
            client.start("misbehave", ["raise"], buffer_id=buffer_id).wait(60)
        retries = {buffer_id: client.retry(buffer_id).buffer_id for buffer_id in (whole, *cut)}
        assert retries[whole] == f"{whole}.retry1"
        assert len(set(retries.values())) == 4
        for buffer_id in cut:
            again = client.retry(buffer_id)
            assert (again.buffer_id, again.existed) == (retries[buffer_id], True)
            assert again.wait(60).total == 1
            base, number = again.buffer_id.split(".retry")
            assert (base[:47], len(base), number) == (buffer_id[:47], 80, "1")
            assert client.retry(again.buffer_id).buffer_id == f"{base}.retry2"


def test_a_chain_of_retries_goes_on_where_its_number_grows_too_long() -> None:
    for number, fits in ((8, True), (9, False), (10**12, False)):
        buffer_id = f"{'x' * 93}.retry{number}"
        following = next_retry_id(
            BufferContent(1, buffer_id, "work", "", True, "", True, True, True, False, 1, 0, 1, is_retry=True)
        )
        assert following.endswith(f".retry{number + 1}")
        assert following.startswith("x" * 93) == fits
        assert len(following) <= 100


@pytest.mark.slow
def test_retry_of_a_cancelled_buffer_does_the_rest(journal: Path, facts: Facts, run_log: RunLog) -> None:
    with Service(journal) as service, service.client() as client:
        client.start("sleep", ["0.002"] * 500, buffer_id="b")
        facts.until("SELECT completed > 5 FROM buffers")
        client.cancel("b")
        missing = 500 - facts.recorded("b")
        assert client.retry("b").wait(60).successful == missing > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("buffer_id", "why"),
    [("open", "it has not ended yet"), ("good", "every item has succeeded"), ("pruned", "were pruned")],
)
def test_what_cannot_be_retried_is_refused_and_changes_nothing(
    journal: Path, facts: Facts, buffer_id: str, why: str
) -> None:
    with Service(journal) as service, service.client() as client:
        client.pause(client.start("sleep", ["0.01"] * 500, buffer_id="open").buffer_id)
        for name in ("good", "pruned"):
            client.cancel(client.start("sleep", ["0.01"] * 500, buffer_id="pruned").buffer_id)
            client.start("echo", ["a"], buffer_id="good").wait(60)
            if name == "good":
                client.prune(now_ms() + 1000)
        client.start("echo", ["a"], buffer_id="good2").wait(60)
        before = buffer_states(facts)
        with pytest.raises(BufferError, match=why):
            client.retry("good2" if buffer_id == "good" else buffer_id)
        with pytest.raises(NotFound):
            client.retry("nothing")
        assert buffer_states(facts) == before
