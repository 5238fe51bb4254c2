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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from durable_bus.cli.interrupts import interrupted_by
from durable_bus.cli.options import journal_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from durable_bus.journal.reader import JournalReader

__all__ = ["top_command"]

_REFRESH_S = 0.5
_BUFFERS_MIN = 4
_ENDED_MAX = 4
_WORKERS_MAX = 8
_FAILURES_MAX = 4
_RATE_OVER_S = 10.0
_ID_CHARS = 24
_OTHER_LINES = 7
"""Of the screen: the supervisor, three complaints, three headings; the last line says how to quit."""


@click.command("top", short_help="Watch buffers and workers, live.")
@journal_option()
def top_command(journal: Path) -> int:
    """Watch a journal: its buffers, their pace, the workers and the last failures. Quit with q or Ctrl-C.

    It only reads. When stdout is no terminal it prints once and ends.

    \b
    durable-bus top --journal journal.db
    """
    from rich.console import Console

    from durable_bus.journal.reader import JournalReader

    console = Console(highlight=False)
    with JournalReader(journal) as reader:
        pace = _Pace()
        if not sys.stdout.isatty():
            console.print(_screen(reader, pace, None))
            return 0
        from rich.live import Live

        with (
            contextlib.suppress(KeyboardInterrupt),
            interrupted_by(signal.SIGTERM, signal.SIGHUP),  # neither may leave the screen as it is
            _keys() as quit_asked,
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            while True:
                live.update(_screen(reader, pace, console.height), refresh=True)
                if quit_asked(_REFRESH_S):
                    break
    return 0


class _Pace:
    """Results a second of each open buffer, over the last seconds that were seen."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[float, int]]] = {}

    def of(self, buffer_id: str, completed: int) -> float:
        now_s = time.monotonic()
        seen = self._seen.setdefault(buffer_id, [])
        seen.append((now_s, completed))
        while now_s - seen[0][0] > _RATE_OVER_S:
            seen.pop(0)
        (then_s, before), elapsed_s = seen[0], now_s - seen[0][0]
        return (completed - before) / elapsed_s if then_s < now_s else 0.0

    def keep(self, buffer_ids: set[str]) -> None:
        self._seen = {key: value for key, value in self._seen.items() if key in buffer_ids}


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits some seconds for `q`; the terminal is as it was afterwards, whatever happens."""
    if not sys.stdin.isatty():
        yield lambda seconds: time.sleep(seconds)
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


def _screen(reader: JournalReader, pace: _Pace, height: int | None) -> RenderableType:
    """`height`: lines there are; None: as many as it takes."""
    from rich.console import Group
    from rich.text import Text

    from durable_bus.cli.supervisor_state import DISK_IS_FULL, ask_supervisor
    from durable_bus.journal.lock import holder_pid

    supervisor = ask_supervisor(reader.path, holder_pid(reader.path))
    run = reader.row("newest_run") or {}
    head = f"supervisor {supervisor['state']}"
    if supervisor["pid"]:
        head += f", process {supervisor['pid']}"
    if run:
        head += f", run {run['run_id']} of {run['app']}"
    head += f", {reader.path}"
    parts: list[RenderableType] = [Text(head, style="bold", no_wrap=True, overflow="ellipsis")]
    if supervisor["reason"]:
        parts.append(_line(f"hung: {supervisor['reason']}", style="red"))
    if supervisor.get("storage_full"):
        parts.append(_line(f"the disk is {DISK_IS_FULL}", style="red"))
    error = (reader.row("newest_run_facts") or {}).get("worker_error")
    if error:
        parts.append(_line(f"the app cannot be imported: {error}", style="red"))
    workers = supervisor.get("workers", [])[:_WORKERS_MAX]
    failures = reader.rows("last_failures", limit=_FAILURES_MAX)
    room = 20 if height is None else height - _OTHER_LINES - len(workers) - len(failures)
    parts.append(_buffers(reader, pace, max(_BUFFERS_MIN, room)))
    if workers:
        parts.append(_workers(workers))
    if failures:
        parts.append(_failures(failures))
    if height is not None:
        parts.append(Text("q quits", style="dim"))
    return Group(*parts)


def _line(text: str, style: str) -> RenderableType:
    from rich.text import Text

    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _short(name: str) -> str:
    """What differs is often the end."""
    return name if len(name) <= _ID_CHARS else f"{name[: _ID_CHARS - 11]}…{name[-10:]}"


def _buffers(reader: JournalReader, pace: _Pace, rows_max: int) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from durable_bus.cli.progress import duration

    count = (reader.row("open_buffers_count") or {}).get("buffers", 0)
    rows = reader.rows("open_buffers", limit=rows_max)
    rows += reader.rows("last_ended_buffers", limit=min(_ENDED_MAX, rows_max - len(rows)))
    pace.keep({row["buffer_id"] for row in rows})
    table = Table(box=None, padding=(0, 1, 0, 0), expand=True)
    table.add_column(f"{count:,} open", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("", ratio=1)
    table.add_column("done", justify="right", no_wrap=True)
    table.add_column("failed", justify="right", no_wrap=True)
    table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("left", justify="right", no_wrap=True)
    for row in rows:
        state = "paused" if row["paused"] and row["state"] == "open" else row["state"]
        rate = pace.of(row["buffer_id"], row["completed"]) if row["state"] == "open" else 0.0
        left = duration(row["pending"] / rate) if rate > 0 and row["pending"] else ""
        table.add_row(
            _short(row["buffer_id"]),
            state,
            ProgressBar(total=max(1, row["total"]), completed=row["completed"]),
            f"{row['completed']:,}/{row['total']:,}",
            Text(f"{row['failed']:,}", style="red" if row["failed"] else "dim"),
            f"{rate:,.0f}/s" if rate else "",
            left,
        )
    return table


def _workers(workers: list[dict[str, Any]]) -> RenderableType:
    from rich.table import Table

    from durable_bus.cli.progress import duration
    from durable_bus.cli.supervisor_state import running_text

    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("worker", "state", "runs", "for", "in hand"):
        table.add_column(
            name, no_wrap=True, overflow="ellipsis", justify="right" if name == "for" else "left"
        )
    for worker in workers:
        runs, seconds = "", ""
        if worker.get("seconds") is not None:
            runs, seconds = running_text(worker, _short), duration(worker["seconds"])
        state = f"{worker['state']}, old" if worker.get("old_code") else worker["state"]
        table.add_row(str(worker["pid"]), state, runs, seconds, str(worker["in_hand"]))
    return table


def _failures(failures: list[dict[str, Any]]) -> RenderableType:
    from rich.text import Text

    text = Text("last failures", style="bold", no_wrap=True, overflow="ellipsis")
    for failure in failures:
        where = (
            f"{_short(failure['buffer_id'])}[{failure['item_index']}]"
            if failure["buffer_id"]
            else "a message"
        )
        text.append(f"\n{where} {failure['kind']}: {failure['message']}", style="not bold")
    return text
