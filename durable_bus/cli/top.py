"""`top`: a live screen of a journal; plain text, once, when stdout is no terminal."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from durable_bus.cli.facts import (
    DISK_IS_FULL,
    cannot_work,
    is_sealed,
    item_text,
    journal_facts,
    running_text,
    state_text,
)
from durable_bus.cli.interrupts import interrupted_by
from durable_bus.cli.limits import in_hand_text
from durable_bus.cli.options import journal_option
from durable_bus.cli.printing import duration, printable, rate, shortened
from durable_bus.cli.progress import Pace
from durable_bus.journal.reader import JournalReader

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


_REFRESH_S = 0.5
_BUFFERS_MIN = 4
_ENDED_MAX = 4
_WORKERS_MAX = 8
_LIMITS_MAX = 4
_FAILURES_MAX = 4
_OTHER_LINES = 7
"""Of the screen: the supervisor, three complaints, three headings; the last line says how to quit."""


def _short(name: str) -> str:
    return shortened(printable(name), 24)


@click.command("top")
@journal_option()
def top_command(journal: Path) -> int:
    """Watch a journal: its buffers, their pace, the workers and the last failures. Quit with q or Ctrl-C.

    It only reads. When stdout is no terminal it prints once and ends.

    \b
    durable-bus top --journal journal.db
    """
    from rich.console import Console

    console = Console(highlight=False)
    with JournalReader(journal) as reader:
        paces: defaultdict[str, Pace] = defaultdict(Pace)
        if not sys.stdout.isatty():
            console.print(_screen(reader, paces, None))
            return 0
        from rich.live import Live

        with (
            contextlib.suppress(KeyboardInterrupt),
            interrupted_by(signal.SIGTERM, signal.SIGHUP),  # neither may leave the screen as it is
            _keys() as quit_asked,
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            while True:
                live.update(_screen(reader, paces, console.height), refresh=True)
                if quit_asked(_REFRESH_S):
                    break
    return 0


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], Any]]:
    """A function that waits some seconds for `q`; the terminal is as it was afterwards, whatever happens."""
    if not sys.stdin.isatty():
        yield time.sleep
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def quit_asked(seconds: float) -> bool:
        ready, _, _ = select.select([fd], [], [], seconds)
        return bool(ready) and os.read(fd, 1) in (b"q", b"Q", b"\x03", b"")

    try:
        tty.setcbreak(fd)
        yield quit_asked
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _screen(reader: JournalReader, paces: defaultdict[str, Pace], height: int | None) -> RenderableType:
    """`height`: lines there are; None: as many as it takes."""
    from rich.console import Group

    facts = journal_facts(reader)
    supervisor, run = facts["supervisor"], facts["run"]
    head = [f"supervisor {supervisor['state']}"]
    if supervisor["pid"]:
        head.append(f"process {supervisor['pid']}")
    if run.get("run_id"):
        head.append(f"run {run['run_id']} of {run['app']}")
    parts: list[RenderableType] = [_line(", ".join([*head, facts["journal"]]), "bold")]
    if supervisor["reason"]:
        parts.append(_line(f"hung: {supervisor['reason']}", "red"))
    if supervisor.get("storage_full"):
        parts.append(_line(f"the disk is {DISK_IS_FULL}", "red"))
    if run["worker_error"]:
        parts.append(_line(cannot_work(run["worker_error"], "the app cannot be imported"), "red"))
    workers = supervisor.get("workers", [])[:_WORKERS_MAX]
    failures = facts["last_failures"][:_FAILURES_MAX]
    room = 20 if height is None else height - _OTHER_LINES - len(workers) - len(failures)
    limits = facts["limits"][: min(_LIMITS_MAX, max(0, room - _BUFFERS_MIN - 1))]
    room -= len(limits) + 1 if limits else 0
    parts.append(_buffers(facts, paces, max(_BUFFERS_MIN, room)))
    if limits:
        parts.append(_limits(limits))
    if workers:
        parts.append(_workers(workers))
    if failures:
        parts.append(_line("last failures", "bold"))
    for failure in failures:
        parts.append(_line(f"{item_text(failure, _short)} {failure['kind']}: {failure['message']}"))
    if height is not None:
        parts.append(_line("q quits", "dim"))
    return Group(*parts)


def _line(text: str, style: str = "") -> RenderableType:
    from rich.text import Text

    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


def _table(*names: str, right: tuple[str, ...], wide: bool = False) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), expand=wide)
    for name in names:
        justify: Any = "right" if name in right else "left"
        table.add_column(name, no_wrap=True, overflow="ellipsis", justify=justify, ratio=None if name else 1)
    return table


def _buffers(facts: dict[str, Any], paces: defaultdict[str, Pace], rows_max: int) -> Table:
    from rich.progress_bar import ProgressBar

    rows = facts["open"][:rows_max]
    rows += facts["ended"][: min(_ENDED_MAX, rows_max - len(rows))]
    for gone in paces.keys() - {row["buffer_id"] for row in rows}:
        del paces[gone]
    numbers = ("done", "failed", "rate", "left")
    table = _table(f"{facts['open_count']:,} open", "state", "", *numbers, right=numbers, wide=True)
    for row in rows:
        per_second = paces[row["buffer_id"]].see(row["completed"]) if row["state"] == "open" else 0.0
        has_end = row["pending"] and is_sealed(row)
        table.add_row(
            _short(row["buffer_id"]),
            state_text(row),
            ProgressBar(total=max(1, row["total"]), completed=row["completed"]),
            f"{row['completed']:,}/{row['total']:,}",
            _line(f"{row['failed']:,}", "red" if row["failed"] else "dim"),
            rate(per_second, 1) if per_second else "",
            duration(row["pending"] / per_second) if per_second > 0 and has_end else "",
        )
    return table


def _limits(limits: list[dict[str, Any]]) -> Table:
    table = _table("limit", "rate", "in hand", "rests", "", right=("rests",))
    for limit in limits:
        rests = duration(limit["rests_s"]) if limit["rests_s"] else ""
        by_hand = "by hand" if limit["by_hand"] else ""
        table.add_row(_short(limit["name"]), limit["rate"] or "any", in_hand_text(limit), rests, by_hand)
    return table


def _workers(workers: list[dict[str, Any]]) -> Table:
    table = _table("worker", "state", "runs", "for", "in hand", right=("for",))
    for worker in workers:
        runs, seconds = "", ""
        if worker.get("seconds") is not None:
            runs, seconds = running_text(worker, _short), duration(worker["seconds"])
        elif worker.get("engine"):
            runs = f"engine {worker['engine']}"
        state = f"{worker['state']}, old" if worker.get("old_code") else worker["state"]
        table.add_row(str(worker["pid"]), state, printable(runs), seconds, str(worker["in_hand"]))
    return table
