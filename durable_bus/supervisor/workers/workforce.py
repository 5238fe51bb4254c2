"""The workers as the supervisor manages them: how many there should be, which code they run, who is replaced
when.
"""

from durable_bus.errors import BusNotImportable, WorkerDeath
from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor.io.clock import Clock
from durable_bus.supervisor.ports import Pool
from durable_bus.supervisor.scheduling.dispatcher import Dispatcher
from durable_bus.supervisor.scheduling.leases import Hand

__all__ = ["BOOT_TIMEOUT_S", "Deferred", "Workforce"]

BOOT_TIMEOUT_S = 300.0
"""A worker that has not reported its listeners after this long is killed: its import hangs."""
_AT_ONCE = 2
"""So many deaths in boot, in a row, are answered at once; then with backoff, and the app counts as one that
cannot be imported.
"""
_BACKOFF_FIRST_S = 0.5
_BACKOFF_MAX_S = 30.0


class Deferred(Exception):
    """It cannot be answered yet: no worker has said which listeners the app has."""


class Workforce:
    """Spawns and replaces workers, and knows the newest table of listeners."""

    def __init__(self, pool: Pool, dispatcher: Dispatcher, clock: Clock, wanted: int) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self._clock = clock
        self.wanted = wanted
        self.listeners: dict[str, ListenerSettings] | None = None
        """The newest table that a worker of this run has reported."""
        self.import_error: str | None = None
        """Why the app could not be imported, when the last worker that tried could not."""
        self._booting: dict[int, float] = {}
        self._has_said_why: set[int] = set()
        """Booting workers that have reported why they cannot import the app: they are about to end."""
        self._hung: set[int] = set()
        """Workers that were killed because their import hangs."""
        self._generation: dict[int, int] = {}
        self._retired: dict[int, int] = {}
        """Workers that are to be replaced, and how many had become ready by then."""
        self._readies = 0
        self.generation = 1
        self._deaths_in_boot = 0
        self._backoff_s = _BACKOFF_FIRST_S
        self._spawn_at_s = 0.0

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    def fill(self) -> None:
        """Spawn what is missing, unless workers keep dying in boot and the next try is not due yet."""
        current = self._current()
        if current >= self.wanted or self._now_s() < self._spawn_at_s:
            return
        for _ in range(self.wanted - current):
            worker_id = self._pool.spawn()
            self._booting[worker_id] = self._now_s()
            self._generation[worker_id] = self.generation
            self._dispatcher.hands[worker_id] = Hand(worker_id=worker_id, pid=self._pool.pid(worker_id))
            self._dispatcher.hands.commit()

    def _current(self) -> int:
        """How many workers run the newest code, or are about to, and are to stay."""
        return sum(
            1
            for worker_id, generation in self._generation.items()
            if generation == self.generation and worker_id not in self._retired
        )

    def next_due_s(self) -> float | None:
        """Monotonic time, s, when `fill` or `hung_in_boot` should be called again; None: nothing is due."""
        due = [since + BOOT_TIMEOUT_S for since in self._booting.values()]
        if self._current() < self.wanted:
            due.append(self._spawn_at_s)
        return min(due, default=None)

    def hung_in_boot(self) -> list[int]:
        """Workers to be killed, because they have not reported their listeners for too long."""
        now_s = self._now_s()
        hung = [worker_id for worker_id, since_s in self._booting.items() if now_s - since_s > BOOT_TIMEOUT_S]
        self._hung.update(hung)
        return hung

    def ready(self, worker_id: int, listeners: dict[str, ListenerSettings]) -> list[int]:
        """A worker has imported the app. The workers of older code, which now get nothing more."""
        self._booting.pop(worker_id, None)
        self._hung.discard(worker_id)
        self._begin_a_new_row()
        hand = self._dispatcher.hands.get(worker_id)
        if hand is None:
            return []
        is_async = any(settings.is_async for settings in listeners.values())
        self._dispatcher.hands[worker_id] = hand._replace(listeners=listeners, is_async=is_async)
        if self._generation.get(worker_id) != self.generation:
            if self.listeners is None:
                self.listeners = (
                    listeners  # a reload came while all were booting: until the new code is there
                )
            return []
        self._set_import_error(None)
        self._readies += 1
        if self.listeners != listeners:
            self.listeners = listeners
            self._dispatcher.paces.forget()
        return [old for old, generation in self._generation.items() if generation < self.generation]

    def failed_import(self, worker_id: int, error: str) -> None:
        """A worker has reported why it cannot import the app."""
        self._has_said_why.add(worker_id)
        if self._generation.get(worker_id) == self.generation:
            self._set_import_error(error)

    def _set_import_error(self, error: str | None) -> None:
        self.import_error = error
        self._dispatcher.may_replace = error is None

    def gone(self, worker_id: int, death: WorkerDeath) -> str | None:
        """A worker has ended. In boot, the first two deaths in a row are replaced at once, later ones with
        backoff; and from the third on the app cannot be imported, also when no worker could say why: whoever
        waits for its listeners is told. Then this is the reason, else None.
        """
        hung = worker_id in self._hung
        self._hung.discard(worker_id)
        generation = self._generation.pop(worker_id, None)
        self._retired.pop(worker_id, None)
        has_said_why = worker_id in self._has_said_why
        self._has_said_why.discard(worker_id)
        if self._booting.pop(worker_id, None) is None or generation != self.generation:
            return None
        self._deaths_in_boot += 1
        if self._deaths_in_boot <= _AT_ONCE:
            return None
        reason = None
        if not has_said_why:
            how = str(death).removeprefix("worker ")
            reason = f"a worker died while it imported the app: {how}"
            if hung:
                reason = f"a worker had not imported the app after {BOOT_TIMEOUT_S:g} s"
            self._set_import_error(reason)
        now_s = self._now_s()
        if now_s >= self._spawn_at_s:  # else it belongs to those who were spawned together, and died so
            self._spawn_at_s = now_s + self._backoff_s
            self._backoff_s = min(_BACKOFF_MAX_S, 2 * self._backoff_s)
        return reason

    def reload(self) -> None:
        """New workers import the app anew; the old ones stay until one of the new has reported its
        listeners.
        """
        self.generation += 1
        self._begin_a_new_row()

    def _begin_a_new_row(self) -> None:
        """Of deaths in boot: the next one is the first again."""
        self._deaths_in_boot = 0
        self._backoff_s = _BACKOFF_FIRST_S
        self._spawn_at_s = 0.0

    def retire(self, worker_id: int) -> None:
        """It is to be replaced, whatever code it runs: from now on it does not count."""
        if worker_id in self._generation:
            self._retired.setdefault(worker_id, self._readies)

    def is_replaced(self, worker_id: int) -> bool:
        """Since it was retired another worker has become ready: today's code can be imported."""
        return self._readies > self._retired.get(worker_id, self._readies)

    def is_old(self, worker_id: int) -> bool:
        return self._generation.get(worker_id, 0) < self.generation

    def require_app(self) -> dict[str, ListenerSettings]:
        """The newest table. Raises Deferred before any worker has tried, BusNotImportable when none could."""
        if not self.is_settled:
            raise Deferred
        if self.listeners is None:
            raise BusNotImportable(self.import_error or "")
        return self.listeners

    @property
    def is_settled(self) -> bool:
        """It is known whether the app can be imported."""
        return self.listeners is not None or self.import_error is not None
