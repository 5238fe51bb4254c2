"""The screen of `top`, at every width and height: no line wraps, what matters most stays."""

import io
from itertools import pairwise
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from durable_bus.cli.top_screen import Screen

WIDTHS = [20, 40, 60, 80, 120, 200]
LONG = "summaries-of-a-very-long-name-that-nobody-can-read-at-a-glance.2026-11-27"


def buffer(buffer_id: str, waits_for: str | None = None, **more: Any) -> dict[str, Any]:
    row = {"buffer_id": buffer_id, "target": "summarise", "state": "open", "paused": False, "total": 100_000}
    return {**row, "completed": 12_345, "failed": 7, "pending": 87_655, "waits_for": waits_for, **more}


def limit(name: str, **more: Any) -> dict[str, Any]:
    bounds = {"rate": "500/min", "running": 40, "allowed": 40, "in_hand": 37, "rests_s": 0, "by_hand": False}
    return {"name": name, **bounds, **more}


def worker(pid: int, **more: Any) -> dict[str, Any]:
    runs = {"listener": "summarise", "buffer_id": LONG, "item_index": 12_345, "seconds": 0.7}
    return {"pid": pid, "state": "ready", "in_hand": 2, **runs, **more}


def failure(message: str = "something went wrong " * 20) -> dict[str, Any]:
    return {"buffer_id": LONG, "item_index": 5, "kind": "exception", "message": message}


def facts(**more: Any) -> dict[str, Any]:
    """Something of everything."""
    supervisor = {"state": "alive", "pid": 4711, "reason": None, "workers": [worker(n) for n in range(9)]}
    opened = [
        buffer(LONG, "waits for limit openai, 12 s"),
        buffer("tonight", "not before 21:00:00 (in 5 h 2 min)"),
        buffer("held", "it is paused", paused=True),
    ]
    return {
        "journal": "journal.db",
        "supervisor": supervisor,
        "run": {"run_id": 3, "app": "shop.app:bus", "ended": "running", "worker_error": None},
        "open": opened,
        "open_count": len(opened),
        "ended": [buffer(f"ended-{n}", state="complete", pending=0) for n in range(5)],
        "limits": [limit("openai", rests_s=12.0), limit("other", rate=None, running=None, allowed=None)],
        "last_failures": [failure() for _ in range(5)],
        **more,
    }


def drawn(told: dict[str, Any], columns: int, lines: int = 24, screen: Screen | None = None) -> list[str]:
    """The lines of a terminal."""
    console = Console(file=io.StringIO(), width=columns, height=lines, highlight=False, markup=False)
    console.print((screen or Screen()).drawn(told, columns, lines))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("lines", [6, 12, 24, 60])
def test_no_line_is_too_long_and_none_too_many(columns: int, lines: int) -> None:
    shown = drawn(facts(), columns, lines)
    assert max(map(cell_len, shown)) <= columns
    assert len(shown) <= lines
    assert shown[-1] == "q quits"
    assert any(line.startswith("summa") for line in shown)


def test_columns_go_in_a_sensible_order() -> None:
    headings = {columns: drawn(facts(), columns)[1].split() for columns in WIDTHS}
    assert headings[200] == ["3", "open", "state", "target", "done", "failed", "rate", "left", "waits"]
    assert headings[60] == ["3", "open", "state", "done", "failed", "waits"]
    assert headings[40] == ["3", "open", "done"]
    for narrow, wide in pairwise(WIDTHS):
        assert set(headings[narrow]) <= set(headings[wide])


def test_a_wide_terminal_shows_whole_names_and_reasons() -> None:
    text = "\n".join(drawn(facts(), 240))
    assert LONG[:60] in text
    assert "limit openai, 12 s" in text
    assert "not before 21:00:00 (in 5 h 2 min)" in text
    assert "it is paused" not in text  # which its state says


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_why_nothing_runs_and_which_limit_is_used_up_are_seen_in_a_usual_terminal(columns: int) -> None:
    text = "\n".join(drawn(facts(), columns))
    assert "limit open" in text
    assert "not before" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["limit", "rate", "in", "hand", "running", "rests"] in lines
    assert ["openai", "500/min", "37", "40", "12.0", "s"] in lines
    assert ["other", "any", "37", "any"] in lines


def test_less_than_a_limit_says_just_now_and_a_limit_set_by_hand() -> None:
    lines = drawn(facts(limits=[limit("openai", allowed=20, by_hand=True)]), 80)
    assert ["openai", "500/min", "37", "20", "of", "40", "by", "hand"] in [line.split() for line in lines]


def test_a_small_terminal_has_limits_beside_many_workers() -> None:
    many = {**facts()["supervisor"], "workers": [worker(n) for n in range(40)]}
    text = "\n".join(drawn(facts(supervisor=many), 80, 24))
    assert "openai" in text
    assert "of 40 workers" in text
    assert "last failures" in text


def test_nothing_moves_while_numbers_change() -> None:
    screen = Screen()
    told = facts()
    drawn(told, 80, 24, screen)
    before = drawn(told, 80, 24, screen)[1]  # with a rate, from the second look on
    calm = [buffer("b", completed=0, failed=0)]
    assert drawn({**told, "open": calm}, 80, 24, screen)[1].split()[2:] == before.split()[2:]
    assert drawn({**told, "open": calm}, 80, 24, screen)[1].index("done") == before.index("done")


@pytest.mark.parametrize(
    ("state", "ended", "says"),
    [
        ("alive", "running", "supervisor alive, process 4711"),
        ("hung", "running", "supervisor hung, process 4711"),
        ("dead", "clean", "supervisor ended, run 3"),
        ("dead", "running", "supervisor crashed, run 3"),
    ],
)
def test_how_the_supervisor_is(state: str, ended: str, says: str) -> None:
    supervisor = {"state": state, "pid": None if state == "dead" else 4711, "reason": None}
    run = {**facts()["run"], "ended": ended}
    assert drawn(facts(supervisor=supervisor, run=run), 80)[0].startswith(says)


def test_a_journal_that_nobody_ever_served() -> None:
    nobody = {"state": "dead", "pid": None, "reason": None}
    told = facts(supervisor=nobody, run={"worker_error": None}, open=[], open_count=0, ended=[], limits=[])
    assert drawn(told, 80)[0] == "supervisor not running, journal.db"


def test_whatever_names_hold_the_terminal_obeys_none_of_it() -> None:
    evil = "x\x1b[2J[red]\n\u202ey"
    told = facts(
        open=[buffer(evil, f"waits for limit {evil}")],
        limits=[limit(evil, rate=evil)],
        last_failures=[failure(evil)],
        supervisor={"state": "alive", "pid": 1, "reason": evil, "workers": [worker(1, listener=evil)]},
    )
    text = "\n".join(drawn(told, 200, 60))
    assert text.isascii() or all(char.isprintable() or char == "\n" for char in text)
    assert "\x1b" not in text
    assert text.count("x\\u001b[2J[red]\\u000a\\u202ey") == 7
