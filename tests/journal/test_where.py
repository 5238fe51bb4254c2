"""Where work ran, as the journal keeps and shows it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from command_line import durable_bus
from golden_journal import golden_journal
from support import Facts

from durable_bus.journal.admin.check import check
from durable_bus.journal.admin.query import ask, question
from durable_bus.journal.work import _as_kept

ENGINE = "dask:tcp://10.0.0.1:8786"


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    return golden_journal(tmp_path / "journal.db")


def changed(journal: Path, sql: str) -> None:
    with closing(sqlite3.connect(journal, isolation_level=None)) as connection:
        assert connection.execute(sql).rowcount > 0


@pytest.mark.parametrize(
    ("given", "kept"),
    [(None, None), ("", None), ("node7:1", "node7:1"), ("n" * 301, "n" * 300), ("\0\x1b[m\udc80", "��[m�")],
)
def test_what_a_table_would_refuse_does_not_come_to_it(given: str | None, kept: str | None) -> None:
    assert _as_kept(given) == kept


def test_the_views_say_it(golden: Path) -> None:
    where = Facts(golden).value
    assert where("SELECT DISTINCT d.\"where\" FROM dispatches d WHERE buffer_id = 'returned'") == ENGINE
    for view in ("results", "failures"):
        assert (
            where(f"SELECT DISTINCT v.\"where\" FROM {view} v WHERE buffer_id = 'returned'") == "node7:4711"
        )
    assert where('SELECT count(*) FROM results r WHERE r.memo = 1 AND r."where" IS NOT NULL') == 0


def test_the_question_who_ran_what_where_counts_by_place(golden: Path) -> None:
    sql, given = question("who-ran-what-where", {"buffer": "returned"})
    (row,) = ask(golden, sql, given, time_limit_s=60)
    assert (row["place"], row["results"], row["failed"]) == ("node7:4711", 3, 0)
    sql, given = question("who-ran-what-where", {})
    rows = list(ask(golden, sql, given, time_limit_s=60))
    assert {row["place"] for row in rows} == {"here", "node7:4711"}
    assert sum(row["results"] for row in rows) == Facts(golden).value(
        "SELECT count(*) FROM results WHERE worker_pid IS NOT NULL"
    )


def test_the_constraints_hold_it_short_and_of_what_was_handed_out(golden: Path) -> None:
    for sql in (
        "UPDATE dispatch SET place = ''",
        "UPDATE failure SET place = printf('%0301d', 1)",
        "UPDATE answer SET place = 'node7:1' WHERE memo = 1",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            changed(golden, sql)


def test_check_finds_an_answer_from_elsewhere_to_what_was_given_to_a_worker_here(golden: Path) -> None:
    assert check(golden).ok
    changed(golden, "UPDATE dispatch SET place = NULL")
    assert [finding.name for finding in check(golden).checks if not finding.ok] == [
        "what_ran_elsewhere_was_given_to_an_engine"
    ]


def test_status_and_replay_show_name_the_engine_of_what_is_in_flight_without_its_control_characters(
    golden: Path,
) -> None:
    sql = """
        INSERT INTO dispatch (
            commit_id, buffer_seq, first_index, item_count, attempt, alone, worker_pid, place
        )
        SELECT max(commit_id), buffer_seq, received - 1, 1, 1, 0, 4242, 'dask:' || char(27) || '[m'
        FROM buffer, journal_commit WHERE buffer_id = 'halted'
    """
    changed(golden, sql)
    for command in (["status"], ["replay", "show"]):
        shown = durable_bus(*command, "--journal", golden, cwd=golden.parent).out
        assert "dask:\\u001b[m" in shown
        assert "\x1b[m" not in shown
