"""What is counted for metrics and not journaled: how long commits take, and how workers end.

It counts from the start of this supervisor on, as programs count for a monitoring system, and goes with it.
"""

from bisect import bisect_left
from collections import Counter

from durable_bus.errors import WorkerDeath, WorkerExited, WorkerKilled, WorkerSilent
from durable_bus.wire.parts import EXIT_REASONS, Figures

__all__ = ["Counting"]

_COMMIT_BOUNDS_US = (100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000)


class Counting:
    """Two numbers a commit: nothing that a turn would notice."""

    def __init__(self) -> None:
        self._commits = [0] * (len(_COMMIT_BOUNDS_US) + 1)
        self._commit_ns = 0
        self._exits: Counter[str] = Counter(dict.fromkeys(EXIT_REASONS, 0))
        self._exits_of_turn: list[str] = []

    def worker_ended(self, death: WorkerDeath) -> None:
        """Counts when the turn has been committed: a refused one hears of the same end again."""
        self._exits_of_turn.append(_reason(death))

    def committed(self, duration_ns: int | None) -> None:
        """A turn's commit has happened. `duration_ns`: how long it took; None: it wrote nothing."""
        if duration_ns is not None:
            self._commits[bisect_left(_COMMIT_BOUNDS_US, duration_ns / 1000)] += 1
            self._commit_ns += duration_ns
        if self._exits_of_turn:
            self._exits.update(self._exits_of_turn)
            self._exits_of_turn.clear()

    def refused(self) -> None:
        """A turn's commit has not happened."""
        self._exits_of_turn.clear()

    def told(self) -> Figures:
        """As the status has them."""
        return Figures([*_COMMIT_BOUNDS_US], [*self._commits], self._commit_ns // 1000, dict(self._exits))


def _reason(death: WorkerDeath) -> str:
    if isinstance(death, WorkerExited):
        return "left" if death.code == 0 else "exited"
    if isinstance(death, WorkerKilled):
        return "killed"
    return "timeout" if isinstance(death, WorkerSilent) else "unresponsive"
