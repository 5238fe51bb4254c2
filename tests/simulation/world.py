"""Time, and what happens when. Nothing here waits: time jumps to whatever is next."""

import heapq
import random
from collections import deque
from collections.abc import Callable

__all__ = ["SimulatedClock", "World"]

_EPOCH_MS = 1_700_000_000_000
_TRACE_LINES_MAX = 400


class World:
    """A queue of what is going to happen, and the one source of chance."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now_ns = 1_000_000_000
        self.wall_jumps_ms = 0
        """By how much the wall clock was set forth or back."""
        self._coming: list[tuple[int, int, Callable[[], None]]] = []
        self._counter = 0
        self.trace: deque[tuple[int, str]] = deque(maxlen=_TRACE_LINES_MAX)
        self.tell: Callable[[str], None] | None = None
        """Where every line of the trace goes at once, with --verbose."""

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        self.at(self.now_ns + int(delay_s * 1e9), action)

    def at(self, at_ns: int, action: Callable[[], None]) -> None:
        self._counter += 1
        heapq.heappush(self._coming, (at_ns, self._counter, action))

    def run_until(self, deadline_ns: int, ready: Callable[[], bool] | None = None) -> None:
        """Let happen what is due until `deadline_ns`, or until `ready()`; that is then the time."""
        while not (ready and ready()):
            if not self._coming or self._coming[0][0] > deadline_ns:
                self.now_ns = max(self.now_ns, deadline_ns)
                return
            at_ns, _, action = heapq.heappop(self._coming)
            self.now_ns = max(self.now_ns, at_ns)
            action()

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def note(self, text: str) -> None:
        self.trace.append((self.now_ns, text))
        if self.tell is not None:
            self.tell(self.line(self.now_ns, text))

    @staticmethod
    def line(now_ns: int, text: str) -> str:
        return f"{now_ns / 1e9:12.6f} {text}"

    def story(self) -> str:
        """The last of the trace, one line each."""
        return "\n".join(self.line(*entry) for entry in self.trace)


class SimulatedClock:
    """The clock port."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now_ms(self) -> int:
        return _EPOCH_MS + self._world.now_ns // 1_000_000 + self._world.wall_jumps_ms

    def monotonic_ns(self) -> int:
        return self._world.now_ns
