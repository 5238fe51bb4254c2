"""Progress on stderr: a bar on a terminal, a plain line every few seconds elsewhere, nothing with --quiet."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = ["Progress", "duration", "open_progress", "rate"]

LINE_EVERY_S = 2.0
_RATE_OVER_S = 10.0


class Progress(Protocol):
    """How far a piece of work is, for whoever watches."""

    refresh_s: float
    """How often `update` is worth calling."""

    def begin(self, label: str, total: int, done: int = 0, failed: int = 0) -> None: ...

    def update(self, done: int, failed: int) -> None: ...

    def end(self) -> None: ...

    def say(self, line: str) -> None:
        """A line of its own, above whatever is drawn."""
        ...


def open_progress(quiet: bool) -> Progress:
    """What suits stderr."""
    if quiet:
        return _Quiet()
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return _Bar()
    return _Lines()


def rate(count: float, seconds: float) -> str:
    """Items per second, for people."""
    per_second = count / seconds if seconds > 0 else 0.0
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"


def duration(seconds: float) -> str:
    """Such as `8.1 s`, `4 min 10 s`, `3 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds:.0f} s"


class _Pace:
    """The rate of the last seconds, from what was seen of `done`."""

    def __init__(self, done: int) -> None:
        self._seen = [(time.monotonic(), done)]

    def see(self, done: int) -> tuple[float, float]:
        """Items and seconds to divide."""
        now_s = time.monotonic()
        self._seen.append((now_s, done))
        while len(self._seen) > 2 and self._seen[1][0] < now_s - _RATE_OVER_S:
            del self._seen[0]
        first_s, first = self._seen[0]
        return done - first, now_s - first_s


class _Quiet:
    refresh_s = 1.0

    def begin(self, label: str, total: int, done: int = 0, failed: int = 0) -> None:
        pass

    def update(self, done: int, failed: int) -> None:
        pass

    def end(self) -> None:
        pass

    def say(self, line: str) -> None:
        pass


class _Lines:
    """At most one line in LINE_EVERY_S seconds."""

    refresh_s = 0.5

    def begin(self, label: str, total: int, done: int = 0, failed: int = 0) -> None:
        self._label, self._total = label, total
        self._pace = _Pace(done)
        self._next_s = time.monotonic() + LINE_EVERY_S

    def update(self, done: int, failed: int) -> None:
        count, seconds = self._pace.see(done)
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + LINE_EVERY_S
        facts = [f"{self._label}: {done:,} of {self._total:,}"]
        if failed:
            facts.append(f"{failed:,} failed")
        facts.append(rate(count, seconds))
        if count:
            facts.append(f"{duration((self._total - done) * seconds / count)} left")
        self.say(", ".join(facts))

    def end(self) -> None:
        pass

    def say(self, line: str) -> None:
        print(f"durable-bus: {line}", file=sys.stderr, flush=True)


class _Bar:
    """One line that fits 80 columns: what, bar, count, failed, rate, time left."""

    refresh_s = 0.1
    _LABEL_CHARS = 20

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[failed]}", style="red"),
            TextColumn("{task.fields[rate]}", justify="right"),
            TextColumn("{task.fields[left]}", justify="right"),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,
            expand=True,
        )
        self._task: TaskID | None = None

    def begin(self, label: str, total: int, done: int = 0, failed: int = 0) -> None:
        self.end()
        if len(label) > self._LABEL_CHARS:
            label = f"{label[: self._LABEL_CHARS - 9]}…{label[-8:]}"
        self._pace = _Pace(done)
        self._task = self._bar.add_task(label, total=total, completed=done, failed="", rate="", left="")
        self._total = total
        self._bar.start()
        self.update(done, failed)

    def update(self, done: int, failed: int) -> None:
        if self._task is None:
            return
        count, seconds = self._pace.see(done)
        self._bar.update(
            self._task,
            completed=done,
            failed=f"{failed:,} failed" if failed else "",
            rate=rate(count, seconds) if count else "",
            left=f"{_clock((self._total - done) * seconds / count)} left" if count else "",
            refresh=True,
        )

    def end(self) -> None:
        if self._task is not None:
            self._bar.stop()
            self._bar.remove_task(self._task)
            self._task = None

    def say(self, line: str) -> None:
        self._bar.console.print(f"durable-bus: {line}", markup=False, highlight=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    """Such as `0:08`, `1:04:10`: as short as it can be read."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
