"""`check` passes a journal in which much has happened, and finds each thing that a test makes wrong in it."""

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from command_line import durable_bus
from eventful import Story, supervised, texts
from support import Facts, kill, until

from durable_bus.journal.admin.check import check, invariants
from durable_bus.journal.admin.wal_readers import wal_readers
from durable_bus.journal.lock import holder_pid, noted_commit
from durable_bus.journal.statements import load

SEQ = "(SELECT buffer_seq FROM buffer WHERE buffer_id = '{}')"
PLAIN, FAILING, HALTED = (SEQ.format(name) for name in ("plain", "failing", "halted"))

BREAKS = {
    "sqlite_integrity": """
        UPDATE sqlite_master SET sql = replace(sql, '(to_id, message_seq)', '(thread_id, message_seq)')
        WHERE name = 'message_waiting'""",
    "foreign_keys": "UPDATE failure SET traceback_id = 99 WHERE failure_id = 1",
    "counters_equal_rows": "UPDATE buffer SET succeeded = succeeded - 1 WHERE buffer_id = 'plain'",
    "items_are_complete": f"DELETE FROM item WHERE item_key = ({HALTED} << 32) + 19",
    "chunks_are_what_came": f"""
        INSERT INTO chunk (buffer_seq, first_index, item_count, commit_id)
        SELECT buffer_seq, 0, total - 1, opened_commit FROM buffer WHERE buffer_seq = {PLAIN}""",
    "streams_have_chunks": "UPDATE buffer SET sealed_commit = ended_commit WHERE buffer_id = 'plain'",
    "items_have_a_buffer": "INSERT INTO item (item_key, payload, form) VALUES (999 << 32, 'x', 0)",
    "ended_means_whole": "UPDATE buffer SET ended_commit = NULL WHERE buffer_id = 'plain'",
    "one_completion_each": "DELETE FROM message WHERE message_id = 'plain/complete'",
    "completions_are_of_their_commit": """
        UPDATE message SET created_commit = created_commit - 1 WHERE message_id = 'plain/complete'""",
    "completions_say_what_rows_say": """
        UPDATE message SET payload = replace(payload, '>10</successful>', '>9</successful>')
        WHERE message_id = 'plain/complete'""",
    "answers_count_their_results": f"UPDATE answer SET recorded = recorded + 1 WHERE buffer_seq = {PLAIN}",
    "results_belong_to_an_answer": f"UPDATE result SET success = 0 WHERE item_key = {PLAIN} << 32",
    "answers_belong_to_a_dispatch": f"UPDATE answer SET attempt = 9 WHERE buffer_seq = {PLAIN}",
    "one_outcome_each": f"UPDATE answer SET dispatch_id = NULL WHERE buffer_seq = {PLAIN}",
    "what_ran_elsewhere_was_given_to_an_engine": f"UPDATE answer SET place = 'x' WHERE buffer_seq = {PLAIN}",
    "forwarded_items_were_dispatched": "UPDATE forwarded_item SET attempt = 7",
    "forwarded_items_wait_for_somebody": f"""
        INSERT INTO forwarded_item (item_key, commit_id, dispatch_id, attempt)
        VALUES (({HALTED} << 32) + 19, (SELECT max(commit_id) FROM journal_commit), 1, 1)""",
    "commits_count_their_rows": "UPDATE journal_commit SET results = results + 1 WHERE results > 0",
    "commits_in_order": "DELETE FROM journal_commit WHERE commit_id = 3",
    "runs_begin_with_a_commit": "UPDATE run SET first_commit = first_commit + 1 WHERE run_id = 2",
    "buffers_change_in_order": "UPDATE buffer SET cancelled_commit = opened_commit WHERE buffer_id = 'plain'",
    "messages_change_in_order": "UPDATE message SET settled_commit = 0 WHERE settled_commit IS NOT NULL",
    "dispatches_are_of_their_buffer": "UPDATE dispatch SET item_count = 1000 WHERE dispatch_id = 1",
    "in_flight_is_of_the_newest_run": """
        UPDATE dispatch SET ended_commit = NULL, ended_how = NULL WHERE dispatch_id = 1""",
    "in_flight_only_once": """
        UPDATE dispatch SET ended_commit = NULL, ended_how = NULL, first_index = 0,
            item_count = 2, attempt = 1, buffer_seq = (SELECT min(buffer_seq) FROM buffer)
        WHERE dispatch_id IN (1, 2)""",
    "delivered_is_of_the_newest_run": """
        UPDATE message SET delivered_commit = created_commit WHERE settled_commit IS NULL""",
    "low_water_is_low": "UPDATE buffer SET low_water = total WHERE buffer_id = 'halted'",
    "failures_belong_to_an_item": """
        INSERT INTO failure (commit_id, item_key, attempt, kind, message)
        VALUES (1, 999 << 32, 1, 'lost', '')""",
    "attempts_are_numbered": "UPDATE failure SET attempt = 5 WHERE failure_id = 1",
    "attempts_at_messages_are_numbered": """
        INSERT INTO failure (commit_id, message_seq, attempt, kind, message) VALUES (1, 1, 2, 'lost', '')""",
    "nothing_is_lost_too_often": f"""
        INSERT INTO failure (commit_id, item_key, attempt, kind, message)
        SELECT 1, {PLAIN} << 32, value, 'lost', '' FROM json_each('[1, 2, 3, 4]')""",
    "retries_come_after_their_failure": "UPDATE failure SET retried_commit = 0 WHERE retry_at IS NOT NULL",
    "durations_are_whole": f"UPDATE answer SET durations = '12' WHERE buffer_seq = {PLAIN}",
    "threads_resolve": """
        DELETE FROM thread WHERE thread_id = (SELECT thread_id FROM buffer WHERE buffer_id = 'plain')""",
    "hops_resolve": """UPDATE thread SET chain = '["cli", ["nobody", 0]]'""",
    "retried_buffers_had_ended": f"UPDATE buffer SET retry_of = {HALTED} WHERE buffer_id = 'failing.retry1'",
    "pauses_are_of_open_buffers": "UPDATE pause SET paused_commit = 1",
}


STREAM = f"""
UPDATE buffer SET sealed_commit = ended_commit WHERE buffer_seq = {PLAIN};
INSERT INTO chunk (buffer_seq, first_index, item_count, commit_id)
SELECT buffer_seq, 0, 4, opened_commit FROM buffer WHERE buffer_seq = {PLAIN}
UNION ALL SELECT buffer_seq, 4, 5, opened_commit FROM buffer WHERE buffer_seq = {PLAIN}
UNION ALL SELECT buffer_seq, 9, 1, ended_commit FROM buffer WHERE buffer_seq = {PLAIN};
"""
"""What was a whole buffer of ten items is a stream that came in three chunks."""
AT_CHUNK = f"WHERE buffer_seq = {PLAIN} AND first_index ="
BREAKS_OF_A_STREAM = {
    "the first is lost": ("chunks_are_what_came", f"DELETE FROM chunk {AT_CHUNK} 0"),
    "one between is lost": ("chunks_are_what_came", f"DELETE FROM chunk {AT_CHUNK} 4"),
    "the last is lost": ("chunks_are_what_came", f"DELETE FROM chunk {AT_CHUNK} 9"),
    "all are lost": ("streams_have_chunks", f"DELETE FROM chunk WHERE buffer_seq = {PLAIN}"),
    "two overlap": ("chunks_are_what_came", f"UPDATE chunk SET item_count = 6 {AT_CHUNK} 4"),
    "one is longer than what came": ("chunks_are_what_came", f"UPDATE chunk SET item_count = 2 {AT_CHUNK} 9"),
    "one came before it opened": ("chunks_are_what_came", f"UPDATE chunk SET commit_id = 1 {AT_CHUNK} 0"),
    "one came before the one before": (
        "chunks_are_what_came",
        f"UPDATE chunk SET commit_id = 1 {AT_CHUNK} 4",
    ),
    "one came after the seal": (
        "chunks_are_what_came",
        f"UPDATE chunk SET commit_id = commit_id + 1 {AT_CHUNK} 9",
    ),
    "it ended unsealed": (
        "ended_means_whole",
        f"UPDATE buffer SET sealed_commit = NULL, total = NULL WHERE buffer_seq = {PLAIN}",
    ),
    "it ended before it was sealed": (
        "buffers_change_in_order",
        f"UPDATE buffer SET sealed_commit = sealed_commit + 1 WHERE buffer_seq = {PLAIN}",
    ),
    "it was sealed before it opened": (
        "buffers_change_in_order",
        f"UPDATE buffer SET sealed_commit = opened_commit - 1 WHERE buffer_seq = {PLAIN}",
    ),
    "it was sealed and never opened": (
        "buffers_change_in_order",
        f"UPDATE buffer SET opened_commit = NULL, ended_commit = NULL WHERE buffer_seq = {PLAIN}",
    ),
    "items came after its total": (
        "items_are_complete",
        f"UPDATE buffer SET total = total - 1 WHERE buffer_seq = {PLAIN}",
    ),
}


def wrong(journal: Path) -> set[str]:
    report = check(journal, served=holder_pid(journal) is not None, noted=noted_commit(journal))
    return {finding.name for finding in report.checks if not finding.ok}


def execute(journal: Path, sql: str) -> None:
    """As nobody should, past every constraint."""
    with closing(sqlite3.connect(journal, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("PRAGMA writable_schema = ON")
        assert connection.execute(sql).rowcount > 0


def test_every_invariant_has_a_test_that_breaks_it() -> None:
    assert BREAKS.keys() == load("check.sql").keys()


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_found(copied: Path, name: str) -> None:
    execute(copied, BREAKS[name])
    assert name in wrong(copied)


@pytest.mark.parametrize("what", BREAKS_OF_A_STREAM)
def test_what_is_broken_of_a_stream_is_found(copied: Path, what: str) -> None:
    with closing(sqlite3.connect(copied)) as connection:
        connection.executescript(STREAM)
    assert wrong(copied) == set()
    name, sql = BREAKS_OF_A_STREAM[what]
    execute(copied, sql)
    assert name in wrong(copied)


def test_a_journal_in_which_much_has_happened_is_right(story: Story, tmp_path: Path) -> None:
    ran = durable_bus("check", "--journal", story.journal, "--json", cwd=tmp_path)
    report = json.loads(ran.out)
    assert [finding for finding in report["checks"] if not finding["ok"]] == []
    assert (ran.code, report["ok"]) == (0, True)
    assert {finding["name"] for finding in report["checks"]} >= invariants().keys()


def test_what_is_wrong_is_named_and_ends_with_5(copied: Path, tmp_path: Path) -> None:
    execute(copied, BREAKS["counters_equal_rows"])
    ran = durable_bus("check", "--journal", copied, cwd=tmp_path)
    assert ran.code == 5
    assert "A buffer's counters are the numbers of its results." in ran.out
    assert "buffer_id plain, succeeded 9, failed 0, results_succeeded 10" in ran.out


@pytest.mark.parametrize(
    ("sql", "constraint"),
    [
        ("UPDATE run SET pid = -1", "pid_is_positive"),
        (BREAKS["counters_equal_rows"], "ended_means_whole_or_cancelled"),
        ("UPDATE result SET form = 4", "form_is_known"),
    ],
)
def test_a_broken_constraint_is_found(copied: Path, sql: str, constraint: str) -> None:
    execute(copied, sql)
    (finding,) = [finding for finding in check(copied).checks if finding.name == "check_constraints"]
    assert {row["constraint"] for row in finding.rows} == {constraint}


def test_a_changed_schema_is_found(copied: Path) -> None:
    with closing(sqlite3.connect(copied)) as connection:
        connection.execute("DROP INDEX answer_of_buffer")
    (finding,) = [finding for finding in check(copied).checks if not finding.ok]
    assert finding.rows == [{"name": "answer_of_buffer", "is": "missing or changed"}]


@pytest.mark.slow
def test_it_is_right_while_it_is_served_after_a_crash_and_after_a_prune(journal: Path, facts: Facts) -> None:
    gate = journal.parent / "gate"
    with supervised(journal) as client:
        client.start("planner", texts("nested", "nested"), buffer_id="outer").wait(60)
        client.start("work", texts("flaky", "bad", f"gate {gate}", "fine"), buffer_id="held")
        facts.until("SELECT count(*) > 0 FROM in_flight WHERE buffer_id = 'held'")
        assert wrong(journal) == set()
        assert client.supervisor_pid is not None
        kill(client.supervisor_pid)
    assert wrong(journal) == set()
    gate.touch()
    with supervised(journal) as client:
        client.buffer("held").wait(60)
        for _ in range(2):
            client.acknowledge(client.receive(60))
        assert client.prune(before_ms=1 << 50) >= 2
        facts.until("SELECT count(*) = 0 FROM item")
        assert wrong(journal) == set()
    assert wrong(journal) == set()
    assert facts.rows("SELECT DISTINCT state FROM buffers") == [("pruned",)]


@pytest.mark.slow
def test_a_buffer_is_not_pruned_before_one_that_its_items_started(journal: Path, facts: Facts) -> None:
    """Its thread and its completion would go with those of the outer one."""
    gate = journal.parent / "gate"
    with supervised(journal) as client:
        client.start("launcher", texts(f"gate {gate}"), buffer_id="outer").wait(60)
        client.acknowledge(client.receive(60))
        outer_ended_ms = facts.value("SELECT max(committed_at) FROM journal_commit")
        until(lambda: time.time() * 1000 > outer_ended_ms + 1, "the clock goes on")
        between_ms = int(time.time() * 1000)
        until(lambda: time.time() * 1000 > between_ms + 1, "the clock goes on")
        gate.touch()
        client.buffer("launched").wait(60)
        assert client.prune(before_ms=between_ms) == 0
        assert wrong(journal) == set()
        assert client.prune(before_ms=1 << 50) == 2
        facts.until("SELECT count(*) = 0 FROM item")
        assert wrong(journal) == set()


READER = """
import sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM buffers").fetchall()
print("reading", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_reader_that_holds_the_log_back_is_named_and_holds_nobody_up(journal: Path, facts: Facts) -> None:
    wal = Path(f"{journal}-wal")
    with supervised(journal) as client:
        client.start("work", texts("fine"), buffer_id="before").wait(60)
        until(lambda: wal.stat().st_size == 0, "an idle supervisor brings the log home")
        client.start("work", texts("fine"), buffer_id="then").wait(60)
        reader = subprocess.Popen(
            [sys.executable, "-c", READER, str(journal)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with reader:
            assert reader.stdout is not None
            assert reader.stdin is not None
            assert reader.stdout.readline() == "reading\n"
            client.start("work", texts(*["fine"] * 100), buffer_id="meanwhile").wait(60)
            assert facts.value("SELECT completed FROM buffers WHERE buffer_id = 'meanwhile'") == 100
            assert [one.pid for one in wal_readers(journal)] == [reader.pid]
            notes = [note.message for note in check(journal).warnings if note.name == "wal_held_back"]
            assert len(notes) == 1
            assert f"process {reader.pid} " in notes[0]
            status = durable_bus("status", "--journal", journal, cwd=journal.parent)
            assert f"the log cannot shrink: process {reader.pid} " in status.out
            assert wal.stat().st_size > 0
            reader.stdin.close()
            reader.wait(60)
        assert wal_readers(journal) == []
        until(lambda: wal.stat().st_size == 0, "the log shrinks when the reader has ended")
