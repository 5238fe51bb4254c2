"""What `wait`, `results`, `export` and `status` say of a buffer that has ended early."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import durable_bus
from old_journals import OLD, old_journal
from paced_journal import Paced, served
from support import Facts

import durable_bus as package


@pytest.fixture
def paced(journal: Path) -> Iterator[Paced]:
    with served(journal) as paced:
        yield paced


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("enough", "ended: enough (3 succeeded), 5 missing"),
        ("max_failures", "ended: max_failures (2 failed), 5 missing"),
        ("deadline", "ended: deadline, 5 missing"),
        ("cancelled", "ended: cancelled, 5 missing"),
    ],
)
def test_an_early_end_is_told_with_its_reason(journal: Path, paced: Paced, how: str, text: str) -> None:
    paced.end(paced.buffer("b", succeeded=3, failed=2), how)
    waited = durable_bus("wait", "b", cwd=journal.parent)
    assert (waited.code, waited.error) == (1, f"b: 10 items, 2 failed, {text}")
    waited = durable_bus("wait", "b", "--json", "--quiet", cwd=journal.parent)
    assert json.loads(waited.out)["ended_how"] == how
    for command in ("results", "export"):
        ran = durable_bus(command, "b", cwd=journal.parent)
        assert ran.error == f"b {text}"
        assert ran.out.count('missing="true"') == 10  # of which no row is there
    state = "cancelled" if how == "cancelled" else f"complete ({how})"
    assert f"  b to work: {state}, 5 of 10, 2 failed\n" in durable_bus("status", cwd=journal.parent).out
    assert f"ended_how     {how}\n" in durable_bus("status", "b", cwd=journal.parent).out


def test_of_one_that_has_ended_with_all_its_items_nothing_more_is_said(journal: Path, paced: Paced) -> None:
    paced.end(paced.buffer("b", succeeded=10), "all")
    waited = durable_bus("wait", "b", cwd=journal.parent)
    assert (waited.code, waited.error) == (0, "b: 10 items, 0 failed")
    assert durable_bus("results", "b", cwd=journal.parent).err == ""
    assert "  b to work: complete, 10 of 10\n" in durable_bus("status", cwd=journal.parent).out
    assert "ended_how" not in durable_bus("status", "b", cwd=journal.parent).out
    with package.open(journal) as opened:
        (status,) = opened.buffers()
        assert (status.state, status.ended_how) == ("complete", "all")


def test_terms_that_were_set_are_shown(journal: Path, paced: Paced) -> None:
    paced.buffer("b", priority=-3, deadline_at=1_900_000_000_000)
    paced.buffer("plain")
    text = durable_bus("status", "b", cwd=journal.parent).out
    assert "priority      -3\n" in text
    assert "deadline      2030-03-17T17:46:40.000Z\n" in text
    assert "priority" not in durable_bus("status", "plain", cwd=journal.parent).out


@pytest.mark.parametrize("name", OLD)
def test_a_journal_of_an_older_version_says_how_its_buffers_have_ended(journal: Path, name: str) -> None:
    old_journal(journal, name)
    rows = Facts(journal).dicts("SELECT * FROM buffers")
    with package.open(journal) as opened:
        ends = {status.buffer_id: (status.state, status.ended_how) for status in opened.buffers()}
        if name < "v4":  # which brought them
            assert opened.limits() == {}
            assert opened.spending() == []
    known = {"complete": "all", "cancelled": "cancelled"}
    assert ends == {
        row["buffer_id"]: (row["state"], row.get("ended_how", known.get(row["state"]))) for row in rows
    }
    assert ends
