"""What handlers of `apps.pace` have noted as they began."""

from pathlib import Path

__all__ = ["Starts", "excess"]


class Starts:
    def __init__(self, path: Path) -> None:
        self.gate = path.with_name(f"{path.name}.gate")
        """Who waits for it goes on when it is there."""
        self._path = path

    def lines(self) -> list[tuple[int, str]]:
        """When, in ns of the monotonic clock, and what."""
        if not self._path.exists():
            return []
        # The last line may still be written.
        lines = self._path.read_text().splitlines(keepends=True)
        parts = [line.split(" ", 1) for line in lines if line.endswith("\n")]
        return [(int(ns), what.strip()) for ns, what in parts]

    def words(self) -> list[str]:
        return [what for _, what in self.lines()]

    def excess(self, rate: float) -> float:
        return excess([ns / 1e9 for ns, _ in self.lines()], rate)


def excess(begun_s: list[float], rate: float) -> float:
    """By how much a window of T seconds has had more starts than rate * T, at most. A window from the i-th to
    the j-th start has j - i + 1: so the largest excess is found in one pass.
    """
    lowest = worst = float("-inf")
    lowest = -lowest
    for count, begin_s in enumerate(sorted(begun_s)):
        ahead = count - rate * begin_s
        lowest = min(lowest, ahead)
        worst = max(worst, ahead - lowest + 1)
    return worst
