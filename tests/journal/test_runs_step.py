"""Migration 0007: a run's row says with which commit it began, and commits are found by time by halving."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from golden_journal import golden_journal
from hypothesis import given
from hypothesis import strategies as st
from old_journals import OLD, old_journal, upgraded
from support import Facts

from durable_bus.journal.admin.console import ConsoleReader
from durable_bus.journal.admin.history import History
from durable_bus.journal.connection import open_writer
from durable_bus.journal.journal import Journal
from durable_bus.journal.statements import load

LAST_COMMIT_BEFORE = load("commits.sql")["last_commit_before"]
OF_RUNS = "SELECT run_id, min(commit_id), max(commit_id) FROM journal_commit GROUP BY run_id ORDER BY run_id"


def runs_of_history(journal: Path) -> list[tuple[int, ...]]:
    with History(journal) as history:
        return [
            (run["run_id"], run["first_commit"], run["last_commit"]) for run in history.runs(served=False)
        ]


def runs_of_console(journal: Path) -> list[tuple[int, ...]]:
    with closing(ConsoleReader(journal)) as reader:
        rows = reader.runs(served=False, limit=50)
    return [(run["run_id"], run["first_commit"], run["last_commit"]) for run in reversed(rows)]


@pytest.mark.parametrize("name", OLD)
def test_the_commits_of_runs_are_the_same_before_and_after(tmp_path: Path, name: str) -> None:
    journal = old_journal(tmp_path / "old.db", name)
    commits = Facts(journal).rows(OF_RUNS)
    assert len(commits) > (0 if name == "v1.forms" else 1)
    assert runs_of_history(journal) == runs_of_console(journal) == commits
    upgraded(journal)
    assert runs_of_history(journal) == runs_of_console(journal) == commits
    assert Facts(journal).rows("SELECT run_id, first_commit FROM run") == [run[:2] for run in commits]


def test_a_run_begins_with_the_commit_of_its_row_and_goes_on_to_the_next_one(journal: Path) -> None:
    for pid in (1, 2, 3):
        with closing(Journal.open(journal)) as opened:
            with opened.commit(1_000 * pid):
                opened.start_run(pid, "app", "0")
            with opened.commit(1_000 * pid + 500):
                opened.prove_room()
    assert runs_of_history(journal) == runs_of_console(journal) == [(1, 1, 2), (2, 3, 4), (3, 5, 6)]
    last = Facts(journal).rows("SELECT substr(last_commit_at, 18) FROM runs ORDER BY run_id")
    assert last == [("01.500Z",), ("02.500Z",), ("03.500Z",)]


@pytest.fixture(scope="module")
def commits() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(
            "CREATE TABLE journal_commit (commit_id INTEGER PRIMARY KEY, committed_at INTEGER NOT NULL)"
        )
        yield connection


def last_commit_before(commits: sqlite3.Connection, times: list[int], before_ms: int) -> int:
    commits.execute("DELETE FROM journal_commit")
    commits.executemany("INSERT INTO journal_commit VALUES (?, ?)", enumerate(times, start=1))
    (found,) = commits.execute(LAST_COMMIT_BEFORE, {"before_ms": before_ms}).fetchone()
    return int(found)


TIMES = st.lists(st.integers(0, 20), max_size=40)


@given(times=TIMES, before_ms=st.integers(-1, 21))
def test_the_last_commit_before_a_time_is_found_by_halving(
    commits: sqlite3.Connection, times: list[int], before_ms: int
) -> None:
    times = sorted(times)
    assert last_commit_before(commits, times, before_ms) == sum(time < before_ms for time in times)


@given(times=TIMES, before_ms=st.integers(-1, 21))
def test_after_a_clock_was_set_back_it_is_one_before_that_is_followed_by_one_that_is_not(
    commits: sqlite3.Connection, times: list[int], before_ms: int
) -> None:
    found = last_commit_before(commits, times, before_ms)
    assert found == 0 or times[found - 1] < before_ms
    assert found == len(times) or times[found] >= before_ms


def test_of_a_damaged_journal_it_is_none(tmp_path: Path) -> None:
    journal = golden_journal(tmp_path / "journal.db")
    with closing(open_writer(journal)) as writer:
        assert writer.execute(LAST_COMMIT_BEFORE, {"before_ms": 1 << 60}).fetchone()[0] > 4
        writer.execute(
            "DELETE FROM journal_commit WHERE commit_id = (SELECT max(commit_id) + 1 FROM journal_commit) / 2"
        )
        assert writer.execute(LAST_COMMIT_BEFORE, {"before_ms": 1 << 60}).fetchone()[0] == 0
