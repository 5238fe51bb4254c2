"""What views, documented questions and the reader say of limits, budgets, ends, memos and what was spent."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import paced
import pytest
from support import Facts

from durable_bus.errors import NotFound
from durable_bus.journal.admin.query import ask, question
from durable_bus.journal.reader import JournalReader

FAR = "3084-12-12T12:41:28.832Z"


def iso(commit_id: int) -> str:
    return f"2027-01-15T08:00:{commit_id:02}.000Z"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paced.make(tmp_path_factory.mktemp("paced") / "journal.db")


@pytest.fixture
def facts(made: Path) -> Facts:
    return Facts(made)


@pytest.fixture(scope="module")
def reader(made: Path) -> Iterator[JournalReader]:
    with JournalReader(made) as reader:
        yield reader


@pytest.fixture
def journal(made: Path, tmp_path: Path) -> Path:
    """One of its own, to change."""
    return Path(shutil.copy(made, tmp_path / "journal.db"))


def change(journal: Path, sql: str, *parameters: Any) -> None:
    with closing(sqlite3.connect(journal, isolation_level=None)) as connection:
        assert connection.execute(sql, parameters).rowcount > 0


def answers(journal: Path, name: str, **parameters: Any) -> list[dict[str, Any]]:
    sql, given = question(name, parameters)
    return list(ask(journal, sql, given, time_limit_s=60))


# Views


def test_a_buffer_says_how_it_ended_and_is_cancelled_only_by_hand(facts: Facts) -> None:
    rows = facts.rows("SELECT buffer_id, state, ended_how, completed_at FROM buffers ORDER BY created_at")
    assert rows == [
        ("first", "complete", "all", iso(10)),
        ("again", "complete", "enough", iso(12)),
        ("failing", "complete", "max_failures", iso(14)),
        ("late", "complete", "deadline", iso(17)),
        ("stopped", "cancelled", "cancelled", iso(18)),
        ("patient", "open", None, None),
        ("poor", "open", None, None),
        ("inner", "complete", "all", iso(25)),
    ]
    missing = facts.rows("SELECT buffer_id, item_index FROM items WHERE state = 'missing' ORDER BY item_key")
    assert missing == [("again", 1), ("failing", 1), ("late", 0), ("stopped", 0)]


def test_what_an_older_version_ended_was_all_or_cancelled(journal: Path) -> None:
    ended = (
        "SELECT buffer_id, state, ended_how FROM buffers WHERE ended_how IN ('all', 'cancelled') ORDER BY 1"
    )
    before = Facts(journal).rows(ended)
    change(journal, "UPDATE buffer SET ended_how = NULL WHERE ended_how IN ('all', 'cancelled')")
    assert Facts(journal).rows(ended) == before
    assert len(before) == 3


def test_a_buffer_says_what_it_waits_for(facts: Facts) -> None:
    sql = "SELECT priority, not_before, deadline, paused, paused_why FROM buffers WHERE buffer_id = ?"
    assert facts.rows(sql, "patient") == [(7, FAR, None, 0, None)]
    assert facts.rows(sql, "late") == [(0, None, iso(17), 0, None)]
    assert facts.rows(sql, "poor") == [(0, None, None, 1, "budget")]
    assert facts.rows(sql, "first") == [(0, None, None, 0, None)], "its pause is over"


def test_a_result_says_whether_it_was_given_again(facts: Facts) -> None:
    rows = facts.rows(
        "SELECT buffer_id, item_index, payload, worker_pid, duration_ms FROM results WHERE memo = 1"
    )
    assert rows == [("again", 0, "A", None, None)]
    assert facts.value("SELECT count(*) FROM results WHERE memo = 0") == 7


def test_spending_has_a_row_each_time_a_handler_has_said_so(facts: Facts) -> None:
    assert facts.rows("SELECT * FROM spending") == [
        ("first", "ask", "usd", 0.25, 0, None, 1, iso(4)),
        ("first", "ask", "tokens", 812.0, 0, None, 1, iso(4)),
        ("first", "ask", "usd", 5.0, 1, None, 2, iso(6)),
        ("first", "ask", "usd", 0.5, 3, None, 1, iso(9)),
        ("poor", "ask", "tokens", 4.0, 0, None, 1, iso(23)),
        ("inner", "ask", "tokens", 6.0, 0, None, 1, iso(25)),
        (None, "ask", "usd", 0.125, None, "asked", 1, iso(28)),
        (None, "ask", "usd", 0.125, None, "asked", 1, iso(30)),
    ]


def test_limits_says_how_each_is_now(journal: Path) -> None:
    facts = Facts(journal)
    (row,) = facts.dicts("SELECT * FROM limits")
    assert row == {
        "name": "service", "rate": "100/min", "running": 40, "adaptive": 1, "allowed": 32, "in_hand": 0,
        "not_begun": 0, "rests_until": FAR, "by_hand": 1, "app_rate": "500/min", "app_running": 40,
        "as_of": iso(1), "listeners": '["ask"]',
    }  # fmt: skip
    change(journal, "UPDATE limit_state SET allowed = NULL, rests_until = 0")
    assert facts.rows("SELECT allowed, rests_until FROM limits") == [(40, None)]
    change(journal, "UPDATE limit_state SET running = NULL")
    assert facts.rows("SELECT allowed FROM limits") == [(None,)]
    change(journal, "UPDATE limit_state SET declared = 0")
    assert facts.rows("SELECT * FROM limits") == []


@pytest.mark.parametrize(
    ("listeners", "named"),
    [
        (None, "[]"),
        ("{}", "[]"),
        ('{"ask": {"name": "ask"}, "other": {"name": "other", "limits": ["others"]}}', "[]"),
        ('{"a": {"limits": ["x", "service"]}, "b": {"limits": ["service"]}}', '["a","b"]'),
    ],
)
def test_the_listeners_of_a_limit_are_those_of_the_newest_table(
    journal: Path, listeners: str | None, named: str
) -> None:
    """An older version has written none of a listener's limits, and a run may not have reported yet."""
    change(journal, "UPDATE run SET listeners = ?", listeners)
    assert Facts(journal).value("SELECT listeners FROM limits") == named


# Questions


def test_costs_by_day_are_what_was_spent(journal: Path) -> None:
    def rows(**parameters: Any) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in answers(journal, "costs-by-day", **parameters)]

    day = "2027-01-15"
    assert rows() == [(day, "ask", "tokens", 822.0, 3), (day, "ask", "usd", 6.0, 5)]
    assert rows(buffer="first") == [(day, "ask", "tokens", 812.0, 1), (day, "ask", "usd", 5.75, 3)]
    change(journal, "UPDATE journal_commit SET committed_at = committed_at + 86400000 WHERE commit_id > 24")
    assert rows() == [
        (day, "ask", "tokens", 816.0, 2),
        (day, "ask", "usd", 5.75, 3),
        ("2027-01-16", "ask", "tokens", 6.0, 1),
        ("2027-01-16", "ask", "usd", 0.25, 2),
    ]


@pytest.mark.parametrize(
    ("state", "how"),
    [
        ("rests_until = rests_until", f"rests until {FAR}"),
        ("rests_until = 1, in_hand = 32", "as many are in hand as may be"),
        ("rests_until = 1, in_hand = 31", "lets start what its rate allows"),
        ("rests_until = 0, rate = NULL", "lets start more"),
    ],
)
def test_limited_says_which_limit_holds_what_back(journal: Path, state: str, how: str) -> None:
    change(journal, f"UPDATE limit_state SET {state}")
    (row,) = answers(journal, "limited")
    assert (row["name"], row["how"], row["buffers"], row["items"]) == ("service", how, 1, 1)


def test_limited_counts_only_what_is_open_and_of_its_listeners(journal: Path) -> None:
    change(journal, 'UPDATE run SET listeners = \'{"other": {"limits": ["service"]}}\'')
    (row,) = answers(journal, "limited")
    assert (row["name"], row["buffers"], row["items"]) == ("service", 0, 0)


def test_came_back_counts_returns_by_listener_and_buffer(journal: Path) -> None:
    assert [tuple(row.values()) for row in answers(journal, "came-back")] == [("ask", "first", 1, 1, iso(4))]
    change(
        journal,
        "INSERT INTO failure (commit_id, message_seq, attempt, kind, message)"
        " VALUES (28, 1, 1, 'retry_after', ''), (28, 1, 2, 'retry_after', '')",
    )
    assert [tuple(row.values()) for row in answers(journal, "came-back")] == [
        ("ask", None, 2, 1, iso(28)),
        ("ask", "first", 1, 1, iso(4)),
    ]


def test_stuck_names_budgets_times_and_limits(journal: Path) -> None:
    def why() -> dict[str, str]:
        return {row["buffer_id"]: row["why"] for row in answers(journal, "stuck")}

    change(journal, "UPDATE run SET stopped_at = NULL")
    assert why() == {
        "patient": f"nothing of it starts before {FAR}",
        "poor": "paused: it has spent its budget",
    }
    change(journal, "UPDATE pause SET why = 'asked'")
    assert why()["poor"] == "paused"
    change(journal, "UPDATE pause SET resumed_commit = 31 WHERE resumed_commit IS NULL")
    change(journal, "UPDATE buffer SET not_before = 1 WHERE buffer_id = 'patient'")
    assert why() == {
        "patient": "waits for a worker with the listener free",
        "poor": f"waits for limit service, which rests until {FAR}",
    }
    change(journal, "UPDATE limit_state SET rests_until = 0, in_hand = 32")
    assert why()["poor"] == "waits for limit service: 32 are in hand, and no more may be"
    change(journal, "UPDATE limit_state SET in_hand = 31")
    assert why()["poor"] == "waits for a worker with the listener ask"


def test_missing_items_are_those_of_every_early_end(journal: Path) -> None:
    found = [(row["buffer_id"], row["item_index"]) for row in answers(journal, "missing-items")]
    assert found == [("again", 1), ("failing", 1), ("late", 0), ("stopped", 0)]


# The reader


def test_the_reader_adds_up_what_was_spent(reader: JournalReader) -> None:
    rows = [tuple(row.values()) for row in reader.spending()]
    assert rows == [
        (None, "ask", "usd", 0.25, 2),
        ("first", "ask", "tokens", 812.0, 1),
        ("first", "ask", "usd", 5.75, 3),
        ("poor", "ask", "tokens", 4.0, 1),
        ("inner", "ask", "tokens", 6.0, 1),
    ]
    for buffer_id in ("first", "poor", "inner", "patient"):
        of_it = [row for row in reader.spending() if row["buffer_id"] == buffer_id]
        assert reader.spending(buffer_id) == of_it
    with pytest.raises(NotFound):
        reader.spending("nobody")


def test_the_reader_says_what_a_budget_is_and_who_has_spent_it(reader: JournalReader) -> None:
    poor = [{"buffer_id": "poor", "unit": "tokens", "amount": 10.0, "spent": 10.0}]
    assert reader.budget("poor") == reader.budget("inner") == poor
    first = [{"buffer_id": "first", "unit": "usd", "amount": 10.0, "spent": 5.75}]
    assert reader.budget("first") == first
    assert reader.budget("patient") == []


def test_the_reader_shows_the_limits_of_the_view(reader: JournalReader, facts: Facts) -> None:
    assert reader.limits() == facts.dicts("SELECT * FROM limits")
