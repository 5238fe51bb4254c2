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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from durable_bus.cli.facts import journal_facts
from durable_bus.cli.interrupts import interrupted_by
from durable_bus.cli.options import journal_option
from durable_bus.journal.reader import JournalReader

if TYPE_CHECKING:
    from rich.console import ConsoleDimensions

_REFRESH_S = 0.5


@click.command("top")
@journal_option()
def top_command(journal: Path) -> int:
    """Watch a journal: its buffers, their pace and why they wait, limits, workers and the last failures.

    Quit with q or Ctrl-C. A wide terminal has more columns. It only reads. When stdout is no terminal it
    prints once and ends.

    \b
    durable-bus top --journal journal.db
    """
    from rich.console import Console

    from durable_bus.cli.top_screen import Screen, page

    console = Console(highlight=False, markup=False)
    with JournalReader(journal) as reader:
        if not sys.stdout.isatty():
            console.print(page(journal_facts(reader)))
            return 0
        from rich.live import Live

        screen = Screen()
        with (
            contextlib.suppress(KeyboardInterrupt),
            interrupted_by(signal.SIGTERM, signal.SIGHUP),  # neither may leave the screen as it is
            _keys() as quit_asked,
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            while True:
                console.size = _size()
                live.update(screen.drawn(journal_facts(reader), *console.size), refresh=True)
                if quit_asked(_REFRESH_S):
                    break
    return 0


def _size() -> ConsoleDimensions:
    """How large the terminal is now. COLUMNS and LINES, which rich goes by, say how large one was once."""
    from rich.console import ConsoleDimensions

    columns, lines = os.get_terminal_size(sys.stdout.fileno())
    return ConsoleDimensions(columns or 80, lines or 24)


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
