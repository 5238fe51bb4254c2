"""Cancel, pause, resume, retry and prune: each idempotent, each kept over restarts."""

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import Raw, Service, connected, stopped
from support import Facts, RunLog, until
from talks import script

from durable_bus import BufferError, Client
from durable_bus.client.client import next_retry_id
from durable_bus.client.upload import BATCH_ITEMS
from durable_bus.errors import NotFound
from durable_bus.journal.admin.check import check
from durable_bus.journal.reader import BufferContent
from durable_bus.wire.framing import encode
from durable_bus.wire.protocol import Cancel


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def states(facts: Facts) -> dict[str, str]:
    return dict(facts.rows("SELECT buffer_id, state FROM buffers"))


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
    assert states(facts) == {"b": "complete"}
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
        assert states(facts) == {"b": "cancelled", "in0": "cancelled", "in1": "complete", "other": "open"}
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
        assert states(facts) == {}
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
    assert states(facts) == {"b": "complete"}


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


def test_a_paused_buffer_can_be_cancelled(journal: Path, facts: Facts) -> None:
    with Service(journal) as service, service.client() as client:
        client.start("sleep", ["0.01"] * 500, buffer_id="b")
        client.pause("b")
        assert client.cancel("b") == "cancelled"
        assert client.buffer("b").wait(60).total == 500


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
            BufferContent(1, buffer_id, "work", "", True, "", True, True, False, 1, 0, 1, is_retry=True)
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
        before = states(facts)
        with pytest.raises(BufferError, match=why):
            client.retry("good2" if buffer_id == "good" else buffer_id)
        with pytest.raises(NotFound):
            client.retry("nothing")
        assert states(facts) == before


# prune


@pytest.mark.slow
def test_prune_keeps_the_row_and_the_id_and_nothing_else(journal: Path, facts: Facts) -> None:
    with Service(journal, "apps.unruly:bus") as service, service.client() as client:
        client.start("misbehave", ["raise", *["good"] * 3000], buffer_id="b").wait(60)
        client.start("misbehave", ["good"] * 10, buffer_id="later").wait(60)
        cut_ms = facts.value(
            "SELECT ended.committed_at + 1 FROM buffer b JOIN journal_commit ended "
            "ON ended.commit_id = b.ended_commit WHERE b.buffer_id = 'b'"
        )
        assert client.prune(cut_ms - 1) == 0
        assert client.prune(cut_ms) == 1
        assert client.prune(cut_ms) == 0
        facts.until("SELECT count(*) = 10 FROM item")
        tables = "result", "answer", "dispatch", "failure", "message", "thread"
        facts.until("SELECT received = 0 FROM buffer WHERE buffer_id = 'b'")
        left = {table: facts.value(f"SELECT count(*) FROM {table}") for table in tables}
        assert left["result"] == 10
        assert left["failure"] == 0
        assert left["message"] == 1
        assert left["thread"] == 2
        row = facts.dicts("SELECT * FROM buffers WHERE buffer_id = 'b'")[0]
        assert (row["state"], row["total"], row["failed"], row["pending"]) == ("pruned", 3001, 1, 0)
        with pytest.raises(BufferError, match="used already"):
            client.start("misbehave", ["other"], buffer_id="b")
        assert client.start("misbehave", ["raise", *["good"] * 3000], buffer_id="b").existed
        assert list(client.buffer("b").results()) == []
        service.restart()
        with connected(journal) as client:
            assert client.buffer("b").status().state == "pruned"
    assert facts.value("SELECT count(*) FROM results WHERE buffer_id = 'later'") == 10


@pytest.mark.slow
def test_the_results_document_of_a_pruned_buffer_is_not_found_instead_of_calling_items_missing(
    journal: Path, facts: Facts
) -> None:
    with Service(journal, "apps.unruly:bus") as service, service.client() as client:
        complete = client.start("misbehave", ["raise", "good"], buffer_id="b").wait(60)
        assert client.prune(now_ms() + 1000) == 1
        facts.until("SELECT count(*) = 0 FROM result")
        for pruned in (complete, client.buffer("b").wait(60)):
            assert (pruned.total, pruned.successful) == (2, 1)
            with pytest.raises(NotFound, match="the results of b were pruned"):
                pruned.results  # noqa: B018


@pytest.mark.slow
def test_nothing_unsettled_is_pruned(journal: Path, facts: Facts) -> None:
    """Not a buffer whose BufferComplete nobody has acknowledged, nor one that is open, nor one that is
    retried.
    """
    with Service(journal, "apps.unruly:bus") as service, service.client("cli") as client:
        client.start("misbehave", ["good"], buffer_id="unread").wait(60)
        with service.client() as nameless:
            nameless.start("misbehave", ["raise"], buffer_id="read").wait(60)
            nameless.start("blocked-for-ever", ["x"], buffer_id="open")
            assert nameless.prune(now_ms() + 1000) == 1
            assert states(facts) == {"unread": "complete", "read": "pruned", "open": "open"}
            service.restart()
            assert nameless.prune(now_ms() + 1000) == 0
        message = client.receive(60)
        assert message.message_id == "unread/complete"
        assert client.prune(now_ms() + 1000) == 0
        client.acknowledge(message)
        assert client.prune(now_ms() + 1000) == 1
        facts.until("SELECT count(*) = 1 FROM item")
        client.cancel("open")


def told(client: Client) -> str:
    """The next message, which is acknowledged."""
    message = client.receive(60)
    client.acknowledge(message)
    return message.payload


@pytest.mark.slow
def test_prune_leaves_nothing_of_a_named_clients_buffer_nor_of_conversations_that_ended(
    journal: Path, facts: Facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is unsettled, later, or of a buffer that stays, is left."""
    monkeypatch.setenv("TALK_LOG", str(tmp_path / "talk.log"))
    with Service(journal, "apps.talking:bus") as service, service.client("cli") as client:
        client.start("work", [script({"say": "a"})], buffer_id="own").wait(60)
        assert told(client).startswith("<BufferComplete>")
        client.send("planner", script({"tell": "helper", "payload": {"say": {"say": "b"}}}))
        assert told(client) == "b"
        client.send("planner", script({"raise": "no good"}))
        assert "no good" in told(client)
        client.send(
            "planner", script({"start": {"target": "work", "items": [{"say": "c"}], "buffer_id": "in"}})
        )
        assert told(client) == "c"
        client.start("work", [script({"raise": "again"})], buffer_id="kept").wait(60)
        unread = client.send("planner", script({"say": "unread"}))
        facts.until("SELECT count(*) = 2 FROM messages WHERE to_id = 'cli' AND state = 'waiting'")
        cut_ms = now_ms() + 1
        until(lambda: now_ms() > cut_ms, "time has passed")
        client.send("planner", script({"none": True}))  # later, and the newest
        assert client.prune(cut_ms) == 2
        facts.until("SELECT count(*) = 1 FROM item")
        facts.until("SELECT count(*) = 4 FROM message")
        left = facts.rows("SELECT message_id, to_id FROM messages ORDER BY created_at, message_id")
        assert (unread, "planner") in left
        assert ("kept/complete", "cli") in left
        assert facts.value("SELECT count(*) FROM failure") == 1
        assert facts.value("SELECT count(*) FROM thread") == 4  # two of `kept`
        assert check(journal, served=True).ok
        service.restart()
        assert sorted([told(client), told(client)])[1] == "unread"
        facts.until("SELECT count(*) = 0 FROM messages WHERE state IN ('waiting', 'delivered')")
        later_ms = now_ms() + 1
        until(lambda: now_ms() > later_ms, "time has passed")
        client.send("planner", script({"none": True}))
        assert client.prune(later_ms) == 1
        facts.until("SELECT count(*) = 0 FROM item")
        assert facts.value("SELECT count(*) FROM message") == facts.value("SELECT count(*) FROM thread") == 1
        assert check(journal, served=True).ok


@pytest.mark.slow
def test_a_daemon_that_retains_for_a_time_forgets_conversations_by_itself(
    journal: Path, facts: Facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without any buffer, and more of them than a turn looks at; of a failure its commit still knows."""
    monkeypatch.setenv("TALK_LOG", str(tmp_path / "talk.log"))
    with Service(journal, "apps.talking:bus") as service, service.client("cli") as client:
        for _ in range(600):
            client.send("planner", script({"none": True}))
        client.send("planner", script({"raise": "no good"}))
        assert "no good" in told(client)
        facts.until("SELECT count(*) = 0 FROM messages WHERE state IN ('waiting', 'delivered')")
    with Service(journal, "apps.talking:bus", retain_ms=1, housekeeping_s=0.05):
        facts.until("SELECT count(*) = 1 FROM message")
        facts.until("SELECT count(*) = 1 FROM thread")
        assert facts.value("SELECT sum(failures) FROM throughput") == 1
    assert facts.value("SELECT count(*) FROM failure") == 0
    assert check(journal).ok


@pytest.mark.slow
def test_a_daemon_that_retains_for_a_time_prunes_by_itself(journal: Path, facts: Facts) -> None:
    with Service(journal, retain_ms=1, housekeeping_s=0.05) as service, service.client() as client:
        for number in range(30):
            client.start("echo", ["a"] * 50, buffer_id=f"b{number}").wait(60)
        facts.until("SELECT count(*) = 30 FROM buffers WHERE state = 'pruned'")
        facts.until("SELECT count(*) = 0 FROM item")
        assert facts.value("SELECT (SELECT count(*) FROM result) + (SELECT count(*) FROM thread)") == 0
        assert client.start("echo", ["a"]).wait(60).successful == 1
    assert not re.search("Traceback", service.log())


@pytest.mark.slow
def test_clearing_goes_on_after_a_kill_and_holds_nobody_up(journal: Path, facts: Facts) -> None:
    with Service(journal, verbose=False, clears_slowly=True) as service:
        with service.client() as client:
            client.cancel(client.start("sleep", ["9"] * 150_000, buffer_id="b").buffer_id)
            client.prune(now_ms() + 1000)
            facts.until("SELECT received BETWEEN 1 AND 149999 FROM buffer")
        service.restart()
        with connected(journal) as client:
            received = facts.value("SELECT received FROM buffer WHERE buffer_id = 'b'")
            assert client.start("echo", ["a"]).wait(60).successful == 1
            facts.until("SELECT received = 0 FROM buffer WHERE buffer_id = 'b'")
            assert facts.value("SELECT count(*) FROM item") == 1
            assert received <= 149_999
