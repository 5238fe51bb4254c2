"""Whatever SQLite runs this: every named statement and every view runs on it, and finds something.

A new SQLite is a new program, and so is a new sqlite3 module: no command must be the first to notice. The
journal is the golden one, the same wherever this runs, with a few rows more, so that none looks in vain.
"""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from golden_journal import golden_journal, upgraded_golden_journal
from simulation import run_schedule

from durable_bus.journal import statements
from durable_bus.journal.admin.check import check
from durable_bus.journal.admin.query import ask, question, questions
from durable_bus.journal.admin.scratch import scratch_copy
from durable_bus.journal.connection import open_writer
from durable_bus.journal.journal import WRITER_SQL, Journal
from durable_bus.journal.reader import JournalReader
from durable_bus.journal.statements import load

PREPARED = """
INSERT INTO buffer (
    buffer_seq, buffer_id, target, return_to, from_id, thread_id, starter_thread_id, collect, request_id,
    touched_at, created_commit, received, next_chunk, dropped_commit, low_water
) VALUES
    (13, 'arriving', 'work', '', 'cli', 'arriving/b', 'arriving', 1, 'r13', 1, 60, 1, 1, NULL, 0),
    (14, 'given-up', 'work', '', 'cli', 'given-up/b', 'given-up', 1, 'r14', 1, 60, 3, 1, 60, 0),
    (15, 'gone', 'work', '', 'cli', 'gone/b', 'gone', 1, 'r15', 1, 60, 0, 1, 60, 0);
INSERT INTO buffer (
    buffer_seq, buffer_id, target, return_to, from_id, thread_id, starter_thread_id, collect, request_id,
    touched_at, created_commit, opened_commit, received, next_chunk
) VALUES (16, 'stream', 'work', '', 'cli', 'stream/b', 'stream', 1, 'r16', 1, 60, 60, 1, 1);
INSERT INTO buffer (
    buffer_seq, buffer_id, target, return_to, from_id, thread_id, starter_thread_id, collect, request_id,
    digest, touched_at, created_commit, opened_commit, sealed_commit, ended_commit, pruned_commit, total,
    succeeded
) VALUES (18, 'pruned', 'work', '', 'cli', 'pruned/b', 'pruned', 1, 'r18', 'd', 1, 60, 60, 60, 60, 60, 1, 1);
INSERT INTO chunk (buffer_seq, first_index, item_count, commit_id) VALUES (16, 0, 1, 60);
INSERT INTO item (item_key, payload, form) VALUES (13 << 32, 'one', 0), (14 << 32, 'two', 0),
    (16 << 32, 'three', 0);
INSERT INTO thread (thread_id, chain, created_commit, changed_commit)
    SELECT thread_id, '["cli"]', 60, 60 FROM buffer WHERE buffer_seq > 12
    UNION SELECT starter_thread_id, '["cli"]', 60, 60 FROM buffer WHERE buffer_seq > 12
    UNION VALUES ('talk', '["cli"]', 60, 60), ('silent', '["cli"]', 60, 60);
INSERT INTO dispatch (dispatch_id, commit_id, buffer_seq, first_index, item_count, attempt, alone, worker_pid)
    VALUES (101, 60, 12, 10, 5, 1, 0, 4242);
INSERT INTO failure (failure_id, commit_id, item_key, attempt, kind, message, retry_at)
    VALUES (101, 60, (12 << 32) + 15, 1, 'exception', 'ValueError: later', 1);
INSERT INTO forwarded_item (item_key, commit_id, dispatch_id, attempt) VALUES ((12 << 32) + 16, 60, 101, 1);
INSERT INTO message (
    message_seq, message_id, kind, from_id, to_id, thread_id, payload, form, due_at, created_commit,
    delivered_commit, settled_commit
)
    SELECT 101, 'waiting', 'text', 'cli', 'nobody', thread_id || '/16', 'hello', 0, 5, 60, NULL, NULL
    FROM buffer WHERE buffer_seq = 12
    UNION ALL VALUES
        (102, 'delivered', 'text', 'cli', 'work', 'talk', 'hello', 0, 0, 60, 60, NULL),
        (103, 'settled', 'text', 'cli', 'work', 'silent', 'hello', 0, 0, 60, 60, 60),
        (104, 'newest', 'text', 'cli', 'work', 'talk', 'hello', 0, 0, 60, 60, NULL);
INSERT INTO failure (failure_id, commit_id, message_seq, attempt, kind, message)
    VALUES (102, 60, 103, 1, 'exception', 'ValueError: no');
INSERT INTO answer (
    answer_id, commit_id, dispatch_id, buffer_seq, first_index, item_count, recorded, success, attempt,
    worker_pid, durations
) VALUES (101, 60, 101, 12, 17, 1, 1, 0, 1, 4242, '0000000001');
INSERT INTO result (item_key, payload, success, form, answer_id) VALUES ((12 << 32) + 17, 'no', 0, 0, 101);
UPDATE buffer SET failed = 1 WHERE buffer_seq = 12;
INSERT INTO request (request_id, commit_id, answer) VALUES ('asked', 60, '{}');
INSERT INTO traceback (digest, body) VALUES ('seen', 'b');
UPDATE buffer SET retry_of = 12 WHERE buffer_seq = 18;
UPDATE buffer SET budget_of = 12 WHERE buffer_seq = 12;
INSERT INTO budget (buffer_seq, unit, commit_id, amount) VALUES (12, 'usd', 1, 5.0), (15, 'usd', 1, 1.0);
INSERT INTO spent (
    commit_id, dispatch_id, item_index, number, buffer_seq, message_seq, listener, attempt, unit, amount
) VALUES (2, 101, 10, 0, 12, NULL, 'work', 1, 'usd', 0.5), (2, -103, 0, 0, NULL, 103, 'work', 1, 'usd', 0.25);
INSERT INTO memo (memo_key, item_key) VALUES (x'00', 1 << 32);
INSERT INTO failure (failure_id, commit_id, item_key, attempt, kind, message, retry_at)
    VALUES (103, 2, (12 << 32) + 18, 1, 'retry_after', 'RetryAfter: 3 s', 1);
INSERT INTO limit_state (
    name, declared, app_rate, app_running, adaptive, by_hand, rate, running, allowed, tokens, tokens_at,
    tokens_at_ns, not_begun, in_hand, rests_until
) VALUES ('service', 1, '500/min', 40, 1, 0, '500/min', 40, 20.0, 8.0, 1, 1, 1, 4, 1 << 45);
INSERT INTO limit_change (name, commit_id, cause, rate, running, allowed, rests_until) VALUES
    ('service', 1, 'app', '500/min', 40, NULL, 0), ('service', 2, 'rest', '500/min', 40, 20.0, 1 << 45);
"""

PLAIN, HALTED = 1 << 32, 12 << 32
"""The first keys of a buffer that is complete, and of the one that is open."""

VALUES: dict[str, Any] = {
    "after": 0, "after_commit": 0, "after_id": 0, "after_key": PLAIN - 1, "after_seq": 0, "alone": 0,
    "answer": "{}", "answer_id": 1, "app": "app", "at_most": 10, "attempt": 1, "base": HALTED,
    "before_commit": 60, "before_ms": 1 << 50, "body": "b", "buffer": None, "buffer_id": "halted",
    "buffer_seq": 12, "collect": 1, "commit_id": 60, "digest": "d", "dispatch_id": 101, "due_at": 5,
    "durations": "", "end_key": PLAIN + 10, "error": "e", "failed": 0, "failure_id": 101, "failures": 0,
    "first_commit": 1, "first_index": 0, "first_key": PLAIN, "form": 0, "from_id": "f", "how": "answered",
    "interrupted": 1, "item": 5, "item_count": 1, "item_key": HALTED + 17, "kind": "lost",
    "last_commit": 60, "last_key": PLAIN + 9, "last_seq": 1000, "limit": 100, "listeners": "[]",
    "low_water": 2, "message": "m", "message_id": "new", "message_seq": 101, "name": "cli",
    "names": '["nobody"]', "next_chunk": 1, "now_ms": 1 << 50, "number": 1, "opened_commit": 60,
    "payload": "p", "pid": 1, "received": 0, "recorded": 1, "request_id": "new", "results": 0,
    "retry_at": None, "retry_of": None, "return_to": "", "returned_from": 12, "returned_id": 201,
    "run_id": 4, "settled": 0, "since_ms": 0, "starter_thread_id": "s", "succeeded": 0, "success": 1,
    "streams": 0, "success_max": 1, "supervisor_died": 0, "target": "work", "thread": "talk",
    "thread_id": "talk", "thread_ids": '["silent"]', "thread_prefix": "", "thread_prefix_end": "~",
    "time_ms": 1 << 50, "to_id": "nobody", "total": 1, "traceback_id": None, "version": "v",
    "with_items": 1, "worker_pid": 1, "priority": 3, "not_before": 1, "deadline_at": 1 << 50, "enough": 1,
    "max_failures": 1, "budget_of": None, "traceparent": None, "why": "budget", "memo": 0, "declared": 1,
    "app_rate": "1/s", "app_running": 1, "adaptive": 0, "by_hand": 0, "rate": "1/s", "running": 1,
    "allowed": None, "tokens": 1.0, "tokens_at_ns": 1, "not_begun": 0, "in_hand": 0, "rests_until": 0,
    "cause": "app", "unit": "new", "amount": 1.0, "item_index": 10, "place": "node7:4711",
    "last_id": 1 << 40, "until_commit": 60, "first_run": 1, "last_run": 100, "among": 999, "at": 60,
    "at_ms": 1, "before": 1 << 40, "buckets": 10, "commits": 60, "count": 20, "first": 1, "id": 1,
    "index": 15, "is_now": 1, "last": 20, "last_answer": 999, "last_dispatch": 999, "last_failure": 999,
    "part": None, "seqs": "[1, 12, 16]", "size": 1, "state": None, "step_ms": 1 << 40, "stride": 1,
    "until_ms": 1 << 50, "with_failures": None,
}  # fmt: skip
"""What each parameter is, unless a statement says otherwise."""

OF_HALTED = {"first_key": HALTED, "end_key": HALTED + 20, "after_key": HALTED - 1, "last_key": HALTED + 19}
SPECIAL: dict[str, dict[str, Any]] = {
    "add_answer": {"answer_id": 1001},
    "add_buffer": {"buffer_seq": 17, "buffer_id": "new"},
    "add_commit": {"commit_id": 61},
    "add_dispatch": {"dispatch_id": 201},
    "add_failure": {"message_seq": None},
    "add_mailbox": {"name": "new"},
    "add_traceback": {"digest": "seen"},
    "cancel_buffer": {"how": "cancelled"},
    "drop_budget": {"buffer_seq": 15},
    "chunk_received": {"buffer_seq": 13},
    "failures_page": {"after_key": 0, "last_key": 1 << 62},
    "traceback_of": {"item_key": 2 << 32},
    "clear_chunks": {"buffer_seq": 16},
    "clear_failures": OF_HALTED,
    "clear_forwarded": OF_HALTED,
    "attempts_failed_page": OF_HALTED,
    "first_failure": OF_HALTED,
    "recorded": {**OF_HALTED, "answer_id": 101},
    "clear_starter_thread": {"thread_id": "gone"},
    "count_last_results": {"succeeded": 17},
    "drop_buffer": {"buffer_seq": 13},
    "failed_because": {"first_key": 2 << 32, "last_key": (2 << 32) + 3},
    "failed_items_page": {"after_key": 0, "last_key": 1 << 62},
    "failures_of": {"item_key": HALTED + 15, "message_seq": None},
    "forget_threads": {"thread_ids": '["gone"]'},
    "forward_item": {"item_key": HALTED + 18},
    "forwarded_attempt": {"item_key": HALTED + 16},
    "has_forwarded": OF_HALTED,
    "message_by_id": {"message_id": "waiting"},
    "mailbox_of_message": {"message_id": "waiting"},
    "next_message_due_at": {"now_ms": 0},
    "outstanding_items": OF_HALTED,
    "pause_buffer": {"buffer_seq": 13},
    "results_page": {"answer_id": None},
    "redeliver_message": {"message_id": "settled"},
    "request_answer": {"request_id": "asked"},
    "set_received": {"buffer_seq": 14},
    "seal_buffer": {"buffer_seq": 16},
    "stop_run": {"run_id": 3},
    "take_over_stream": {"buffer_seq": 16},
    "undeliver_message": {"message_seq": 102},
    "unsuccessful_items": OF_HALTED,
    "worker-of-item": {"buffer": "plain"},
    "dispatches_of_item": {"index": 12},
    "failed_attempts": OF_HALTED,
    "failed_keys": OF_HALTED,
    "failures_of_item": {"item_key": HALTED + 15},
    "failures_of_message": {"message_seq": 103},
    "forwarded_parts": OF_HALTED,
    "message": {"message_id": "waiting"},
    "unanswered_keys": OF_HALTED,
}
"""Where a statement finds something with other values only."""

BY_METHOD: dict[str, Callable[[Journal], object]] = {
    "add_item": lambda journal: journal.buffers.add_chunk(13, 1, 1, b"a\0<b/>\0", "01"),
    "add_items": lambda journal: journal.buffers.add_chunk(13, 1, 1, b"a\0" * 311, "0"),
    "add_results": lambda journal: record(journal, 3, passed_on=False),
    "add_result_not_forwarded": lambda journal: record(journal, 15, passed_on=True),
    "add_memo": lambda journal: journal.work.remember(1, 1, (b"new",)),
    "memos": lambda journal: journal.work.memos([b"other", b"\0"]),
    "give_again": lambda journal: journal.work.give_again(12, 11, [PLAIN], 1),
    "set_thread": lambda journal: journal.messages.set_chain("[]", "talk", "new"),
}
"""Who runs the statements whose parameters are a sequence."""

READER_SQL = (
    "reader.sql",
    "history.sql",
    "metrics.sql",
    "salvage.sql",
    "trace.sql",
    "console.sql",
    "console_buffers.sql",
)
FILES = (*WRITER_SQL, *READER_SQL, "check.sql", "check_pace.sql")
_INTO = re.compile(r"INSERT INTO (\w+)")
_NOT_CODE = re.compile(r"--[^\n]*|'[^']*'")
_NAMED = re.compile(r"(?<!:):([a-z]\w*)")
_NAMED_OR_NUMBERED = re.compile(r"[:@$]\w|\?\d")


def record(journal: Journal, first_index: int, *, passed_on: bool) -> int:
    """Answers to two items of the open buffer, of which item 16 was passed on."""
    return journal.work.record_results(
        buffer_seq=12, first_index=first_index, item_count=2, payloads=b"a\0b\0", success=True, form=0,
        dispatch_id=101, attempt=1, worker_pid=1, durations="", passed_on=passed_on,
    )  # fmt: skip


def code_of(sql: str) -> str:
    """Without comments and strings."""
    return _NOT_CODE.sub("", sql)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = upgraded_golden_journal(tmp_path_factory.mktemp("any") / "journal.db")
    with closing(open_writer(path)) as connection:
        connection.executescript(PREPARED)
    return path


@pytest.fixture(scope="module")
def writer(prepared: Path) -> Iterator[Journal]:
    with closing(Journal.open(prepared)) as journal:
        yield journal


@pytest.fixture(scope="module")
def reader(prepared: Path) -> Iterator[JournalReader]:
    with JournalReader(prepared) as reader:
        yield reader


def parameters_of(name: str, sql: str) -> dict[str, Any]:
    special = SPECIAL.get(name, {})
    return {one: special.get(one, VALUES[one]) for one in _NAMED.findall(code_of(sql))}


def finds(connection: sqlite3.Connection, name: str, sql: str) -> bool:
    """Whether it finds rows that say something, or changes one."""
    cursor = connection.execute(sql, parameters_of(name, sql))
    if cursor.description is None:
        return cursor.rowcount > 0
    return any(value not in (None, 0) for row in cursor.fetchall() for value in row)


@pytest.mark.parametrize("name", load(*WRITER_SQL))
def test_every_statement_of_the_supervisor_runs_and_finds_something(writer: Journal, name: str) -> None:
    sql = load(*WRITER_SQL)[name]
    writer.connection.execute("BEGIN IMMEDIATE")
    try:
        if name in BY_METHOD:
            before = writer.connection.total_changes
            answered = BY_METHOD[name](writer)
            found = writer.connection.total_changes > before or bool(answered)
        else:
            found = finds(writer.connection, name, sql)
    finally:
        writer.connection.execute("ROLLBACK")
    assert found


@pytest.mark.parametrize(
    ("file_name", "name"),
    [(file, name) for file in READER_SQL for name in load(file)],
)
def test_every_statement_of_readers_runs_and_finds_something(
    reader: JournalReader, file_name: str, name: str
) -> None:
    assert finds(reader.connection, name, load(file_name)[name])


@pytest.mark.parametrize("name", questions())
def test_every_question_runs_and_finds_something(prepared: Path, name: str) -> None:
    sql, _ = question(name, {})
    assert list(ask(prepared, sql, parameters_of(name, sql), time_limit_s=60))


def test_every_view_runs_and_shows_something(reader: JournalReader) -> None:
    sql = "SELECT name FROM sqlite_master WHERE type = 'view'"
    views = [name for (name,) in reader.connection.execute(sql)]
    assert len(views) == 11
    for name in views:
        assert reader.connection.execute(f"SELECT * FROM {name}").fetchall(), name


def test_the_newest_golden_journal_has_limits_budgets_ends_memos_places_and_traces(tmp_path: Path) -> None:
    """What the next step must keep."""
    with JournalReader(golden_journal(tmp_path / "journal.db")) as reader:
        rows = {row["buffer_id"]: row for row in reader.buffers()}
        assert {row["ended_how"] for row in rows.values()} == {
            None, "all", "enough", "max_failures", "deadline", "cancelled",
        }  # fmt: skip
        assert (rows["dear"]["paused_why"], rows["halted"]["paused_why"]) == ("budget", "asked")
        assert [row for row in reader.budget("dear") if row["spent"] >= row["amount"]]
        assert {row["name"]: row["by_hand"] for row in reader.limits()}["few"] == 1
        for sql in (
            "SELECT 1 FROM failures WHERE kind = 'retry_after'",
            "SELECT 1 FROM results WHERE memo = 1",
            "SELECT 1 FROM buffers WHERE length(traceparent) = 55",
            "SELECT 1 FROM memo",
            'SELECT 1 FROM results r WHERE r."where" IS NOT NULL',
            'SELECT 1 FROM failures f WHERE f."where" IS NOT NULL',
            'SELECT 1 FROM dispatches d WHERE d."where" IS NOT NULL',
        ):
            assert reader.connection.execute(sql).fetchone(), sql


def test_a_scratch_copy_has_the_open_work(prepared: Path) -> None:
    with scratch_copy(prepared) as journal:
        assert journal.buffers.outstanding(12, 0, 20, 100)
        with journal.commit(1):
            journal.start_run(1, "scratch", "0")


def test_every_invariant_runs_and_holds_of_a_whole_journal(tmp_path: Path) -> None:
    report = check(upgraded_golden_journal(tmp_path / "journal.db"))
    assert [finding for finding in report.checks if not finding.ok] == []
    assert {finding.name for finding in report.checks} >= load("check.sql", "check_pace.sql").keys()


def test_no_file_of_statements_is_left_out() -> None:
    folder = Path(statements.__file__).with_name("sql")
    assert {path.name for path in folder.glob("*.sql")} == set(FILES)


# Placeholders. From Python 3.12 on the name of each is asked for when the parameters are a sequence: it takes
# the longer the more there are, for each of them; some of these Pythons warn of a name, others refuse it.


class Watched(sqlite3.Cursor):
    """Notes what is executed with a sequence of parameters."""

    seen: set[str]

    def execute(self, sql: str, parameters: Any = (), /) -> "Watched":
        self._note(sql, parameters)
        return super().execute(sql, parameters)

    def executemany(self, sql: str, rows: Any, /) -> "Watched":
        rows = list(rows)
        for row in rows:
            self._note(sql, row)
        return super().executemany(sql, rows)

    def _note(self, sql: str, parameters: Any) -> None:
        if parameters and not isinstance(parameters, dict):
            self.seen.add(sql)


def watched(seen: set[str]) -> type[sqlite3.Connection]:
    class Noting(Watched):
        pass

    class Connection(sqlite3.Connection):
        def cursor(self, factory: Any = None) -> Any:
            return super().cursor(factory or Noting)

        def execute(self, sql: str, parameters: Any = (), /) -> Any:
            return self.cursor().execute(sql, parameters)

        def executemany(self, sql: str, rows: Any, /) -> Any:
            return self.cursor().executemany(sql, rows)

    Noting.seen = seen
    return Connection


def test_what_is_executed_with_a_sequence_has_neither_names_nor_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=watched(seen)))
    for seed in range(3):
        run_schedule(seed, tmp_path)
    path = upgraded_golden_journal(tmp_path / "journal.db")
    with closing(Journal.open(path)) as journal:
        journal.connection.executescript(PREPARED)
        for run in BY_METHOD.values():
            journal.connection.execute("BEGIN IMMEDIATE")
            run(journal)
            journal.connection.execute("ROLLBACK")
    assert {"item", "result", "thread"} <= {table for sql in seen for table in _INTO.findall(sql)}
    assert [sql for sql in sorted(seen) if _NAMED_OR_NUMBERED.search(code_of(sql))] == []
