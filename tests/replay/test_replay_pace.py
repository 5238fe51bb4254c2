"""`replay` shows limits, budgets, ends and what was spent as they were after each commit."""

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import paced
import pytest
from command_line import durable_bus
from daemons import client_of
from replays import as_json
from support import Facts
from test_replay import RecordingDaemon, comparable

from durable_bus.journal.admin.check import check
from durable_bus.journal.admin.history import History

FAR = "3084-12-12T12:41:28.832Z"


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paced.make(tmp_path_factory.mktemp("paced") / "journal.db")


@pytest.fixture(scope="module")
def history(journal: Path) -> Iterator[History]:
    with History(journal) as history:
        yield history


def changes(seen: list[object]) -> list[tuple[int, object]]:
    """From which commit on it was another."""
    return [(n + 1, now) for n, now in enumerate(seen) if n == 0 or now != seen[n - 1]]


def of_buffer(history: History, buffer_id: str, *names: str) -> list[tuple[int, object]]:
    commits = range(1, paced.LAST_COMMIT + 1)
    rows = [{row["buffer_id"]: row for row in history.at(commit)["buffers"]} for commit in commits]
    return changes(
        [tuple(row[buffer_id][name] for name in names) if buffer_id in row else None for row in rows]
    )


@pytest.mark.parametrize(
    ("buffer_id", "opened", "ended", "end"),
    [
        ("first", 2, 10, ("complete", "all")),
        ("again", 11, 12, ("complete", "enough")),
        ("failing", 13, 14, ("complete", "max_failures")),
        ("late", 15, 17, ("complete", "deadline")),
        ("stopped", 16, 18, ("cancelled", "cancelled")),
    ],
)
def test_a_buffer_is_open_until_its_end_and_then_says_how(
    history: History, buffer_id: str, opened: int, ended: int, end: tuple[str, str]
) -> None:
    seen = of_buffer(history, buffer_id, "state", "ended_how")
    assert seen == [(1, None), (opened, ("open", None)), (ended, end)]


def test_a_pause_is_told_with_its_reason_while_it_lasted(history: History) -> None:
    assert of_buffer(history, "first", "paused", "paused_why") == [
        (1, None),
        (2, (False, None)),
        (6, (True, "budget")),
        (7, (False, None)),
    ]


def test_a_limit_is_what_its_last_change_until_then_has_made_of_it(history: History) -> None:
    names = ("rate", "running", "allowed", "rests_until", "by_hand", "cause")
    seen = [
        [tuple(row[name] for name in names) for row in history.at(commit)["limits"]]
        for commit in range(paced.LAST_COMMIT + 1)
    ]
    rest = "2027-01-15T08:00:05.000Z"
    assert [(commit - 1, now) for commit, now in changes(seen)] == [
        (0, []),
        (1, [("500/min", 40, 40, None, False, "app")]),
        (4, [("500/min", 40, 40, rest, False, "rest")]),
        (5, [("500/min", 40, 40, None, False, "rest")]),
        (19, [("100/min", 40, 40, None, True, "hand")]),
        (20, [("100/min", 40, 32, FAR, True, "slower")]),
    ]


def test_a_limit_that_the_app_had_no_more_is_not_shown(tmp_path: Path) -> None:
    journal = paced.make(tmp_path / "journal.db")
    with closing(sqlite3.connect(journal)) as connection, connection:
        connection.execute(
            "INSERT INTO limit_change (name, commit_id, cause, rests_until) VALUES ('service', 31, 'app', 0)"
        )
    with History(journal) as history:
        assert [len(history.at(commit)["limits"]) for commit in (30, 31)] == [1, 0]


def test_spending_is_what_had_been_spent_until_then(history: History) -> None:
    sums = [
        [
            (row["buffer_id"], row["unit"], row["amount"], row["times"])
            for row in history.at(commit)["spending"]
        ]
        for commit in range(1, paced.LAST_COMMIT + 1)
    ]
    tokens, poor = ("first", "tokens", 812.0, 1), ("poor", "tokens", 4.0, 1)
    first = [tokens, ("first", "usd", 5.75, 3)]
    both = [*first, poor, ("inner", "tokens", 6.0, 1)]
    assert changes(sums) == [
        (1, []),
        (4, [tokens, ("first", "usd", 0.25, 1)]),
        (6, [tokens, ("first", "usd", 5.25, 2)]),
        (9, first),
        (23, [*first, poor]),
        (25, both),
        (28, [(None, "usd", 0.125, 1), *both]),
        (30, [(None, "usd", 0.25, 2), *both]),
    ]


def test_show_counts_returns_and_ends_by_their_kind(journal: Path, tmp_path: Path) -> None:
    (run,) = as_json("show", "--journal", journal, cwd=tmp_path)["runs"]
    counted = {
        "opened": 8, "completed": 2, "ended_by_enough": 1, "ended_by_max_failures": 1, "ended_by_deadline": 1,
        "cancelled": 1, "pruned": 0, "failures": 3, "came_back": 1,
    }  # fmt: skip
    assert {name: run[name] for name in counted} == counted
    shown = durable_bus("replay", "show", "--journal", journal, cwd=tmp_path)
    assert "3 failed attempts, 1 of them by RetryAfter" in shown.out
    assert "2 buffers completed, 1 buffers ended by enough, 1 buffers ended by max_failures" in shown.out


def test_at_is_text_for_people(journal: Path, tmp_path: Path) -> None:
    shown = durable_bus("replay", "at", 25, "--journal", journal, cwd=tmp_path)
    assert shown.code == 0, shown.err
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["again", "ask", "complete", "by", "enough", "2", "1", "0", "0", "0"] in lines
    assert ["poor", "ask", "paused", "by", "budget", "2", "1", "0", "1", "0"] in lines
    assert ["service", "100/min", "40", "32", FAR, "True"] in lines
    assert ["first", "usd", "5.75", "3"] in lines
    early = durable_bus("replay", "at", 0, "--journal", journal, cwd=tmp_path)
    assert "limits" not in early.out
    assert "spending" not in early.out
    then = as_json("at", 25, "--journal", journal, cwd=tmp_path)
    assert (then["limits"][0]["by_hand"], then["spending"][0]["amount"]) == (True, 812.0)


@pytest.mark.slow
def test_at_every_commit_it_says_what_a_real_supervisor_had_written_by_then(
    journal_of_its_own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Returns, every early end, a budget that is spent and granted again, a limit set by hand; two kills."""
    journal = journal_of_its_own
    record, facts = journal.with_name("record"), Facts(journal)
    monkeypatch.setenv("PACE_STARTS", str(journal.with_name("starts")))
    with RecordingDaemon(journal, record, "pace"), client_of(journal, "cli") as client:
        client.start("returns", [0.05, 0, 0], buffer_id="returned").wait(60)
        client.start("few", list(range(200)), buffer_id="enough", enough=2).wait(60)
        client.start("fails", [1, 3, 5, 7], buffer_id="too-many", max_failures=1).wait(60)
        client.start("asks", [{"n": 1}] * 5, buffer_id="asked").wait(60)
        client.start("spends", [0.5, 2, 0.5, 0.5], buffer_id="dear", budget={"usd": 3})
        client.set_limit("few", running=1)
        facts.until("SELECT paused_why = 'budget' FROM buffers WHERE buffer_id = 'dear'")
    with RecordingDaemon(journal, record, "pace"), client_of(journal, "cli") as client:
        client.resume("dear")
        client.buffer("dear").wait(60)
        client.set_limit("few", reset=True)
        client.start("rare", [1, 2, 3], buffer_id="late", deadline=0.5)
        client.start("spends", [1.0] * 100, buffer_id="interrupted")
        facts.until("SELECT count(*) > 0 FROM results WHERE buffer_id = 'interrupted'")
    with RecordingDaemon(journal, record, "pace") as daemon, client_of(journal, "cli") as client:
        client.buffer("interrupted").wait(60)
        client.buffer("late").wait(60)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(60) == 0
    recorded = [json.loads(line) for line in record.read_text().splitlines()]
    # A kill may come between a commit and its line.
    assert len(recorded) >= facts.value("SELECT count(*) FROM journal_commit") - 2
    with History(journal) as history:
        for then in recorded:
            said = history.at(then["commit"])
            assert comparable(said["buffers"]) == comparable(then["buffers"]), then["commit"]
            for part, names in (("limits", LIMIT), ("spending", SPENT)):
                found = sorted(tuple(map(str, map(row.get, names))) for row in said[part])
                assert found == sorted(tuple(map(str, map(row.get, names))) for row in then[part])
    assert [finding for finding in check(journal).checks if not finding.ok] == []


LIMIT = ("name", "rate", "running")
SPENT = ("buffer_id", "unit", "amount", "times")


@pytest.fixture
def journal_of_its_own(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"
