"""What simulated workers do beside answering: they return what may not begin, and say what is spent."""

from typing import TYPE_CHECKING

from durable_bus.payloads.settings import LimitSettings, ListenerSettings
from durable_bus.wire.parts import Spent
from durable_bus.wire.work import Work
from simulation.handlers import FOR_EVER_S, Handling, Raises
from simulation.world import World

if TYPE_CHECKING:
    from simulation.workers import SimulatedWorker

__all__ = ["Resting", "Spending"]

_FRAMES_MAX = 100
_REPORTS_MAX = 3
_AMOUNTS = (0.25, 0.5, 1.0, 2.0)
"""Sums of them are exact."""


class Resting:
    """The limits that rest in a worker, as in `failing.RestingLimits`."""

    def __init__(self, world: World, limits: dict[str, LimitSettings]) -> None:
        self._world = world
        self._limits = limits
        self._until_ns: dict[str, int] = {}
        self._frames_left = 0

    def described(self, handling: Handling) -> Handling:
        """A RetryAfter that names a limit which the app does not have is an exception like any other."""
        unknown = isinstance(handling, Raises) and handling.limit and handling.limit not in self._limits
        return Raises(handling.seconds, "exception", "there is no such limit") if unknown else handling

    def raised(self, raised: Raises) -> None:
        """After a RetryAfter its limit rests."""
        if raised.limit and raised.after_s is not None:
            until_ns = self._world.now_ns + int(raised.after_s * 1e9)
            self._until_ns[raised.limit] = max(until_ns, self._until_ns.get(raised.limit, 0))
            self._frames_left = _FRAMES_MAX

    def returns(self, settings: ListenerSettings) -> bool:
        """Whether a limit rests that holds for a listener; after too many such answers all is forgotten."""
        if not any(self._until_ns.get(name, 0) > self._world.now_ns for name in settings.limits):
            return False
        self._frames_left -= 1
        if self._frames_left < 0:
            self._until_ns.clear()
        return self._frames_left >= 0


class Spending:
    """What the attempts of a worker spend: amounts at any moment while they run, also before a death."""

    def __init__(self, worker: "SimulatedWorker") -> None:
        self._worker = worker
        self._numbers: dict[tuple[int, int], int] = {}
        """Of each attempt that runs, how many reports there were."""

    def begin(self, work: Work, index: int, seconds: float) -> None:
        """An attempt begins, and will run for so long."""
        world = self._worker.world
        if not world.chance(self._worker.machine.spends):
            return
        attempt = (work.dispatch, index)
        self._numbers[attempt] = 0
        for _ in range(world.rng.randint(1, _REPORTS_MAX)):
            at_s = world.rng.random() * (0.2 if seconds == FOR_EVER_S else seconds)
            amounts = {world.rng.choice(["usd", "usd", "tokens"]): world.rng.choice(_AMOUNTS)}
            self._worker.later(at_s, lambda amounts=amounts: self._spend(attempt, amounts))

    def _spend(self, attempt: tuple[int, int], amounts: dict[str, float]) -> None:
        if attempt in self._numbers:  # else it has ended: it is told that it comes too late
            self._worker.pipe.add_spent(Spent(*attempt, self._numbers[attempt], amounts))
            self._numbers[attempt] += 1
            self._worker.plan_flush()

    def end(self, work: Work, index: int) -> None:
        self._numbers.pop((work.dispatch, index), None)
