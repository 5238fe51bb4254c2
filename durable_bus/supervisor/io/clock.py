"""The machine's clocks. A simulation hands the supervisor others (`ports.Clock`)."""

import time

__all__ = ["SystemClock"]


class SystemClock:
    """The real `ports.Clock`."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()
