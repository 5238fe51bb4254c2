"""Prune takes away what has ended and is settled, and leaves the row and the id of a buffer."""

import re
from pathlib import Path

import pytest
from services import Service, connected
from support import Facts, buffer_states, now_ms, until
from talks import script

from durable_bus import BufferError, Client
from durable_bus.errors import NotFound
from durable_bus.journal.admin.check import check


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
            assert buffer_states(facts) == {"unread": "complete", "read": "pruned", "open": "open"}
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
