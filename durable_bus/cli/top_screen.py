"""What `top` draws: a screen as large as the terminal, or one page of plain text for a pipe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from durable_bus.cli.columns import Column, Widths, rows_of_each
from durable_bus.cli.facts import (
    DISK_IS_FULL,
    cannot_work,
    is_sealed,
    item_text,
    running_text,
    state_text,
    supervisor_text,
)
from durable_bus.cli.limits import in_hand_text
from durable_bus.cli.printing import duration, printable, rate, shortened
from durable_bus.cli.progress import Pace

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

__all__ = ["Screen", "page"]

_Rows = list[dict[str, Any]]
_Short = Callable[[str], str]

_NAME_CHARS = 24
_NAME_CHARS_LEAST = 16
_BAR = 40
_DURATION = len("59 min 59 s")
_RATE = len("12,345/s")
_ENDED_MAX = 4
_FAILURES_MAX = 4
_LEAST_ROWS = (4, 2, 2, 1)
"""Of buffers, limits, workers and failures, on a screen that has too few lines."""
_PAGE_LINES = 20
_PAGE_LIMITS_MAX = 4
_PAGE_WORKERS_MAX = 8


class Screen:
    """All that fits a terminal. It remembers how fast buffers went, and how wide columns were."""

    def __init__(self) -> None:
        self._paces: defaultdict[str, Pace] = defaultdict(Pace)
        self._buffers, self._limits, self._workers = Widths(), Widths(), Widths()

    def drawn(self, facts: dict[str, Any], columns: int, lines: int) -> RenderableType:
        """So many lines at most, and none that is longer than there are columns."""
        from rich.console import Group

        head = list(_head(facts))
        free = lines - len(head) - 1  # the last one says how to quit
        workers, limits = facts["supervisor"].get("workers", []), facts["limits"]
        failures = facts["last_failures"][:_FAILURES_MAX]
        buffers_max = len(facts["open"]) + min(_ENDED_MAX, len(facts["ended"]))
        least = [max(1, min(_LEAST_ROWS[0], free - 1)), *_LEAST_ROWS[1:]]
        rows = rows_of_each([max(1, buffers_max), len(limits), len(workers), len(failures)], least, free)
        short = _shortener(max(_NAME_CHARS_LEAST, columns * 3 // 10))
        parts = [*head, _fitted(_buffers(facts, rows[0], self._paces, short), self._buffers, columns)]
        if rows[1]:
            parts.append(_fitted(_limits(limits, rows[1], short), self._limits, columns))
        if rows[2]:
            parts.append(_fitted(_workers(workers, rows[2], short), self._workers, columns))
        return Group(*parts, *_failures(failures[: rows[3]], short), _line("q quits", "dim"))


def page(facts: dict[str, Any]) -> RenderableType:
    """The same once, for a pipe: what programs read, so columns neither come nor go with the width."""
    from rich.console import Group

    short = _shortener(_NAME_CHARS)
    workers = facts["supervisor"].get("workers", [])[:_PAGE_WORKERS_MAX]
    limits, failures = facts["limits"][:_PAGE_LIMITS_MAX], facts["last_failures"][:_FAILURES_MAX]
    lines = _PAGE_LINES - len(workers) - len(failures) - (len(limits) + 1 if limits else 0)
    buffers = _buffers(facts, max(_LEAST_ROWS[0], lines), defaultdict(Pace), short)
    parts = [*_head(facts), _of_page(buffers, wide=True)]
    if limits:
        parts.append(_of_page(_limits(limits, len(limits), short)))
    if workers:
        parts.append(_of_page(_workers(workers, len(workers), short)))
    return Group(*parts, *_failures(failures, short))


def _shortener(chars_max: int) -> _Short:
    return lambda name: shortened(printable(name), chars_max)


def _line(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


def _head(facts: dict[str, Any]) -> Iterator[RenderableType]:
    """Who serves the journal, and what is wrong with that."""
    supervisor, run = facts["supervisor"], facts["run"]
    state = supervisor_text(supervisor, run)
    head = [f"supervisor {state}"]
    if supervisor["pid"]:
        head.append(f"process {supervisor['pid']}")
    if run.get("run_id"):
        head.append(f"run {run['run_id']} of {run['app']}")
    yield _line(", ".join([*head, facts["journal"]]), "bold red" if state == "crashed" else "bold")
    if supervisor["reason"]:
        yield _line(f"hung: {supervisor['reason']}", "red")
    if supervisor.get("storage_full"):
        yield _line(f"the disk is {DISK_IS_FULL}", "red")
    if run["worker_error"]:
        yield _line(cannot_work(run["worker_error"], "the app cannot be imported"), "red")


def _failures(failures: _Rows, short: _Short) -> Iterator[RenderableType]:
    if failures:
        yield _line("last failures", "bold")
    for failure in failures:
        yield _line(f"{item_text(failure, short)} {failure['kind']}: {failure['message']}")


# Tables


def _fitted(columns: list[Column], widths: Widths, room: int) -> RenderableType:
    """A table for a screen: each column as wide as there is room."""
    columns = [_escaped(column) for column in columns if column.only_on != "page"]
    fitted = [pair for pair in zip(columns, widths.fit(columns, room), strict=True) if pair[1]]
    return _table([_cut(column, width) for column, width in fitted], [width for _, width in fitted])


def _of_page(columns: list[Column], *, wide: bool = False) -> RenderableType:
    """A table for a page: every column, as rich has them fit. `wide`: what has no heading takes the rest."""
    return _table([_escaped(column) for column in columns if column.only_on != "screen"], None, wide=wide)


def _escaped(column: Column) -> Column:
    """Its texts as they are drawn, so that their widths can be taken."""
    return column._replace(cells=[_line(cell) if isinstance(cell, str) else cell for cell in column.cells])


def _table(columns: list[Column], widths: list[int] | None, *, wide: bool = False) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), expand=wide)
    for number, column in enumerate(columns):
        table.add_column(
            column.heading,
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if column.right else "left",
            width=None if widths is None else widths[number],
            ratio=1 if wide and not column.heading else None,
        )
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    return table


def _cut(column: Column, width: int) -> Column:
    """Its names are as long as it is wide."""
    if not column.is_name or width < _NAME_CHARS_LEAST:
        return column
    return column._replace(cells=[_line(shortened(str(cell), width)) for cell in column.cells])


def _heading(noun: str, shown: int, rows: _Rows) -> str:
    return noun if shown >= len(rows) else f"{shown:,} of {len(rows):,} {noun}s"


def _buffers(
    facts: dict[str, Any], rows_max: int, paces: defaultdict[str, Pace], short: _Short
) -> list[Column]:
    """Those that are open, then those that ended last."""
    from rich.progress_bar import ProgressBar

    rows: _Rows = facts["open"][:rows_max]
    rows = rows + facts["ended"][: min(_ENDED_MAX, rows_max - len(rows))]
    for gone in paces.keys() - {row["buffer_id"] for row in rows}:
        del paces[gone]
    speeds = [
        paces[row["buffer_id"]].see(row["completed"]) if row["state"] == "open" else 0.0 for row in rows
    ]
    return [
        Column(
            f"{facts['open_count']:,} open", [short(row["buffer_id"]) for row in rows], least=16, is_name=True
        ),
        Column("state", [state_text(row) for row in rows], 2, least=8, usual=8),
        Column(
            "target",
            [short(row["target"]) for row in rows],
            7,
            least=12,
            is_spare=True,
            is_name=True,
            only_on="screen",
        ),
        Column(
            "",
            [ProgressBar(total=max(1, row["total"]), completed=row["completed"]) for row in rows],
            8,
            least=10,
            usual=_BAR,
            is_spare=True,
        ),
        Column("done", [f"{row['completed']:,}/{row['total']:,}" for row in rows], 1, right=True),
        Column(
            "failed",
            [_line(f"{row['failed']:,}", "red" if row["failed"] else "dim") for row in rows],
            3,
            right=True,
        ),
        Column("rate", [rate(speed, 1) if speed else "" for speed in speeds], 6, usual=_RATE, right=True),
        Column("left", list(map(_left, rows, speeds)), 5, usual=_DURATION, right=True),
        Column("waits", [_why(row) for row in rows], 4, least=11, only_on="screen"),
    ]


def _left(row: dict[str, Any], per_second: float) -> str:
    has_end = row["pending"] and is_sealed(row)
    return duration(row["pending"] / per_second) if per_second > 0 and has_end else ""


def _why(row: dict[str, Any]) -> str:
    """Why nothing of a buffer runs. That it is paused stands in its state."""
    why = str(row["waits_for"] or "")
    return "" if why == "it is paused" else why.removeprefix("waits for ")


def _limits(limits: _Rows, rows_max: int, short: _Short) -> list[Column]:
    rows = limits[:rows_max]
    return [
        Column(
            _heading("limit", rows_max, limits), [short(row["name"]) for row in rows], least=12, is_name=True
        ),
        Column("rate", [row["rate"] or "any" for row in rows], 2),
        Column("in hand", [in_hand_text(row) for row in rows], only_on="page"),
        Column("in hand", [f"{row['in_hand']:,}" for row in rows], 1, right=True, only_on="screen"),
        Column("running", [_running(row) for row in rows], 4, right=True, only_on="screen"),
        Column(
            "rests",
            [duration(row["rests_s"]) if row["rests_s"] else "" for row in rows],
            3,
            usual=_DURATION,
            right=True,
        ),
        Column("", ["by hand" if row["by_hand"] else "" for row in rows], 5),
    ]


def _running(limit: dict[str, Any]) -> str:
    """How many may run at once; where it is less just now, first that."""
    most = "any" if limit["running"] is None else f"{limit['running']:,}"
    return most if limit["allowed"] == limit["running"] else f"{limit['allowed']:,} of {most}"


def _workers(workers: _Rows, rows_max: int, short: _Short) -> list[Column]:
    rows = workers[:rows_max]
    return [
        Column(_heading("worker", rows_max, workers), [str(row["pid"]) for row in rows]),
        Column("state", [f"{row['state']}, old" if row.get("old_code") else row["state"] for row in rows], 2),
        Column("runs", [_runs(row, short) for row in rows], 1, least=30, usual=30),
        Column(
            "for",
            ["" if row.get("seconds") is None else duration(row["seconds"]) for row in rows],
            3,
            usual=_DURATION,
            right=True,
        ),
        Column("in hand", [str(row["in_hand"]) for row in rows], 4),
    ]


def _runs(worker: dict[str, Any], short: _Short) -> str:
    if worker.get("seconds") is not None:
        return running_text(worker, short)
    return f"engine {worker['engine']}" if worker.get("engine") else ""
