"""An older journal becomes one of this version whole or not at all; until then it is read as it is."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command_line import durable_bus
from old_journals import (
    OLD,
    SCHEMA,
    VIEWS,
    Upgrades,
    all_rows,
    as_before,
    is_right,
    old_journal,
    refused_once_changed,
    upgraded,
    version_of,
)
from support import Facts, fingerprint

from durable_bus.journal.admin.check import check, invariants
from durable_bus.journal.admin.history import History
from durable_bus.journal.admin.query import ask, question, questions
from durable_bus.journal.connection import SCHEMA_VERSION, open_reader, open_writer
from durable_bus.journal.reader import JournalReader
from durable_bus.journal.schema import migrate

POINTS = 12
NEW_COLUMNS = ("item_key", "sealed_at", "paused_why", "FROM spending", "FROM limits", '"where"')
"""Those that a question may ask for and an older journal does not have, and views."""


@pytest.fixture(params=OLD)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return old_journal(tmp_path / "old.db", request.param)


def test_an_upgraded_journal_has_the_schema_of_a_new_one_to_the_letter(old: Path, tmp_path: Path) -> None:
    with closing(open_writer(tmp_path / "new.db")) as connection:
        migrate(connection)
    new = Facts(tmp_path / "new.db").rows(SCHEMA)
    assert Facts(upgraded(old)).rows(SCHEMA) == new
    assert not [name for _, name, _, sql in new if "is_xml_is_bool" in (sql or "")]


def test_every_view_shows_what_it_showed(old: Path) -> None:
    before = all_rows(old)
    after = all_rows(upgraded(old))
    for view in VIEWS:
        assert as_before(after[view], before[view]) == before[view]


def test_whatever_was_open_was_sealed_as_it_opened(old: Path) -> None:
    assert (
        Facts(upgraded(old)).value("SELECT count(*) FROM buffer WHERE opened_commit IS NOT sealed_commit")
        == 0
    )
    assert Facts(old).value("SELECT count(*) FROM buffers WHERE sealed_at IS NOT NULL") >= 4
    assert Facts(old).value("SELECT count(*) FROM chunk") == 0


def test_sqlite_and_every_invariant_are_content(old: Path) -> None:
    assert durable_bus("migrate", "--journal", old, cwd=old.parent).code == 0
    with closing(open_reader(old)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    ran = durable_bus("check", "--journal", old, "--json", cwd=old.parent)
    report = json.loads(ran.out)
    assert (ran.code, report["schema_version"]) == (0, SCHEMA_VERSION)
    assert "schema_is_as_migrated" in {finding["name"] for finding in report["checks"]}


KIND = ("kind IN ('exception', 'timeout', 'lost'", "kind IN ('exception','timeout','lost'")


@pytest.mark.parametrize("old", [name for name in OLD if name < "v4"], indirect=True)
def test_a_table_of_failures_that_is_not_as_it_was_made_is_left_alone(old: Path) -> None:
    """Its CHECK would stay, and the first RetryAfter would be refused."""
    with refused_once_changed(old, "failure", KIND) as connection:
        assert connection.execute("SELECT count(*) FROM failure").fetchone()


OF_STREAMS = [name for name in OLD if name < "v3"]
"""Whose step to streams is still to come."""
CHANGED = [
    ("total > 0 AND digest", "total > 0 AND  digest"),
    ("coalesce(total, 0)", "coalesce(total,0)"),
    ("succeeded + failed = total)", "succeeded + failed = total )"),
]


@pytest.mark.parametrize("old", OF_STREAMS, indirect=True)
@pytest.mark.parametrize("change", CHANGED)
def test_a_table_of_buffers_that_is_not_as_it_was_made_is_left_alone(
    old: Path, change: tuple[str, str]
) -> None:
    """Its CHECK would stay, and the first stream would be refused."""
    with refused_once_changed(old, "buffer", change) as connection:
        assert connection.execute("SELECT total FROM buffer LIMIT 1").fetchone()


@pytest.mark.parametrize(
    "old", [OLD[0], *(pytest.param(name, marks=pytest.mark.slow) for name in OLD[1:])], indirect=True
)
def test_killed_at_any_statement_it_is_old_and_after_the_last_it_is_new(old: Path, tmp_path: Path) -> None:
    """Evenly through all statements, and at those around the commit."""
    trial = tmp_path / "trial.db"
    trial.write_bytes(old.read_bytes())
    before = version_of(old), Facts(old).rows(SCHEMA), all_rows(old)
    with Upgrades() as upgrades:
        statements, commit = upgrades.whole(trial)
        points = sorted({*(1 + statements * n // POINTS for n in range(POINTS)), commit - 1, commit})
        assert len([point for point in points if point <= commit]) > 10
        for point in [point for point in points if point <= commit]:
            upgrades.killed_at(point, old)
            assert (version_of(old), Facts(old).rows(SCHEMA), all_rows(old)) == before
            assert is_right(old)
        upgrades.killed_at(-1, old)
    assert version_of(old) == SCHEMA_VERSION
    assert is_right(old)
    after = all_rows(old)
    assert {view: as_before(after[view], before[2][view]) for view in VIEWS} == before[2]


# As nobody has upgraded it


def test_it_is_checked_by_every_invariant_as_it_is(old: Path) -> None:
    before, report = fingerprint(old), check(old)
    assert [finding for finding in report.checks if not finding.ok] == []
    assert {finding.name for finding in report.checks} >= invariants().keys()
    assert (report.schema_version, fingerprint(old)) == (version_of(old), before)


def test_what_is_wrong_in_it_is_found_as_it_is(old: Path) -> None:
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        sql = "UPDATE buffer SET succeeded = succeeded - 1 WHERE succeeded > 0 AND pruned_commit IS NULL"
        assert connection.execute(sql).rowcount > 0
    wrong = {finding.name for finding in check(old).checks if not finding.ok}
    assert {"counters_equal_rows", "check_constraints"} <= wrong


def test_its_results_are_read_and_its_questions_answered(old: Path) -> None:
    paced = version_of(old) >= 4
    with JournalReader(old) as reader:
        for row in reader.buffers():
            if row["state"] != "pruned":
                results = list(reader.results(reader.buffer_seq(row["buffer_id"]), with_items=True))
                assert [one.item is None for one in results] == [False] * row["completed"]
            if paced:
                continue
            assert reader.spending(row["buffer_id"]) == reader.budget(row["buffer_id"]) == []
        assert bool(reader.limits()) == bool(reader.spending()) == paced
    for name in questions():
        sql, given = question(name, {})
        if ":" not in sql and not any(column in sql for column in NEW_COLUMNS):
            list(ask(old, sql, given, time_limit_s=60))


def test_replay_shows_what_happened_and_how_it_was(old: Path) -> None:
    def replayed(*arguments: object) -> dict[str, Any]:
        ran = durable_bus("replay", *arguments, "--journal", old, "--json", cwd=old.parent)
        assert ran.code == 0, ran.err
        return dict(json.loads(ran.out))

    facts = "SELECT buffer_id, state, total, completed, failed, pending FROM buffers ORDER BY 1"
    views = Facts(old).dicts(facts)
    newest = Facts(old).value("SELECT max(commit_id) FROM journal_commit")
    shown, then = replayed("show"), replayed("at", newest)
    assert len(shown["runs"]) == Facts(old).value("SELECT count(*) FROM runs")
    rows = sorted(then["buffers"], key=lambda row: row["buffer_id"])
    assert [{name: row[name] for name in views[0]} for row in rows] == views
    with History(old) as history:
        early = [history.at(commit_id) for commit_id in range(1, newest + 1)]
        assert any(then["limits"] or then["spending"] for then in early) == (version_of(old) >= 4)
    upgraded(old)
    with History(old) as history:
        assert [history.at(commit_id) for commit_id in range(1, newest + 1)] == early
