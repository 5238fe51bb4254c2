"""The one place that reads the time, so that a simulation can hand the supervisor another."""

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """What the supervisor asks about time."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC: for what is written to the journal."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds that never go back, the same clock in every process of the machine: for durations."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()
