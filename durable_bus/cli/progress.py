"""Progress on stderr: a bar on a terminal, a plain line every few seconds elsewhere, nothing with --quiet."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from datetime import timedelta

from durable_bus.cli.printing import duration, note, printable, rate, shortened

LINE_EVERY_S = 2.0
_RATE_OVER_S = 10.0
_LABEL_CHARS = 20


def open_progress(quiet: bool) -> Progress:
    if quiet:
        return Progress()
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return _Bar()
    return _Lines()


class Pace:
    """How fast something grows, over the last seconds in which somebody looked."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def see(self, done: int) -> float:
        """Per second, with `done` as it is now; 0.0 at the first look."""
        now_s = time.monotonic()
        self._seen.append((now_s, done))
        while len(self._seen) > 2 and self._seen[1][0] < now_s - _RATE_OVER_S:
            self._seen.popleft()
        first_s, first = self._seen[0]
        return (done - first) / (now_s - first_s) if now_s > first_s else 0.0


class Progress:
    """How far a piece of work is, for whoever watches. This one is for nobody."""

    refresh_s = 1.0
    """How often `show` is worth calling."""

    def __init__(self) -> None:
        self._work: tuple[str, int | None] | None = None
        self._pace = Pace()

    def show(self, label: str, total: int, done: int, failed: int = 0, *, more: bool = False) -> None:
        """So many of `total` items are done, `failed` among them. `more`: these are not all. Another label is
        other work, and so is another total of what was whole.
        """
        work = (label, None if more else total)
        if self._work != work:
            pace = self._pace if self._work == (label, None) else Pace()
            self.end()
            self._work, self._pace = work, pace
            self._begin(label, total, more=more)
        self._draw(total, done, failed, self._pace.see(done))

    def end(self) -> None:
        self._work = None

    def say(self, line: str) -> None:
        """A line of its own, above whatever is drawn."""

    def _begin(self, label: str, total: int, *, more: bool) -> None:
        pass

    def _draw(self, total: int, done: int, failed: int, per_second: float) -> None:
        pass


class _Lines(Progress):
    refresh_s = 0.5

    def _begin(self, label: str, total: int, *, more: bool) -> None:
        self._label, self._more = label, more
        self._next_s = time.monotonic() + LINE_EVERY_S

    def _draw(self, total: int, done: int, failed: int, per_second: float) -> None:
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + LINE_EVERY_S
        facts = [f"{self._label}: {done:,} of {total:,}{' so far' if self._more else ''}"]
        if failed:
            facts.append(f"{failed:,} failed")
        facts.append(rate(per_second, 1))
        if per_second > 0 and not self._more:
            facts.append(f"{duration((total - done) / per_second)} left")
        self.say(", ".join(facts))

    def say(self, line: str) -> None:
        note(line)


class _Bar(Progress):
    """One line that fits 80 columns: what, bar, count, failed, rate, time left."""

    refresh_s = 0.1

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}{task.fields[more]}"),
            TextColumn("{task.fields[failed]}", style="red"),
            TextColumn("{task.fields[rate]}", justify="right"),
            TextColumn("{task.fields[left]}", justify="right"),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,
            expand=True,
        )

    def _begin(self, label: str, total: int, *, more: bool) -> None:
        self._more = more
        self._task = self._bar.add_task(
            shortened(label, _LABEL_CHARS), total=total, failed="", rate="", left="", more="+" if more else ""
        )
        self._bar.start()

    def _draw(self, total: int, done: int, failed: int, per_second: float) -> None:
        left_s = round((total - done) / per_second) if per_second > 0 else None
        self._bar.update(
            self._task,
            total=total,
            completed=done,
            failed=f"{failed:,} failed" if failed else "",
            rate="" if left_s is None else rate(per_second, 1),
            left="" if left_s is None or self._more else f"{timedelta(seconds=left_s)} left",
            refresh=True,
        )

    def end(self) -> None:
        if self._work is not None:
            self._bar.stop()
            self._bar.remove_task(self._task)
        super().end()

    def say(self, line: str) -> None:
        self._bar.console.print(
            f"durable-bus: {printable(line)}", markup=False, highlight=False, soft_wrap=True
        )
