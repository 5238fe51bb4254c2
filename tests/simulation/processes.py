"""A process beside the supervisor's, as that may meet it: in it time passes step by step, and between any two
steps it may be stopped or die.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from durable_bus.errors import WorkerDeath, WorkerExited
from durable_bus.payloads.settings import LimitSettings, ListenerSettings
from durable_bus.wire import decoding
from durable_bus.wire.framing import Frame, FrameReader
from durable_bus.wire.slot import ORDINAL_MAX
from durable_bus.wire.work import AppNotImportable, Ready, Work
from simulation.handlers import FOR_EVER_S, FORMS
from simulation.worker_pipe import WorkerPipe

if TYPE_CHECKING:
    from simulation.machine import Machine

__all__ = ["SimulatedProcess", "SimulatedSlot"]

_WORLD_GOES_ON = 0.02
"""How often time passes while the supervisor looks into a slot."""


class SimulatedSlot:
    """The slot port. The supervisor never knows how far the worker is when it looks."""

    def __init__(self, race: Callable[[], None]) -> None:
        self._race = race
        self.worker_started = 0
        self.worker_since_ns = 0
        self.worker_limit = ORDINAL_MAX

    @property
    def current(self) -> int:
        self._race()
        return 0  # a step takes no time here

    @property
    def started(self) -> int:
        self._race()
        return self.worker_started

    @property
    def since_ns(self) -> int:
        self._race()
        return self.worker_since_ns

    @property
    def limit(self) -> int:
        self._race()
        return self.worker_limit

    @limit.setter
    def limit(self, ordinal: int) -> None:
        self._race()
        self.worker_limit = ordinal
        self._race()


class SimulatedProcess:
    """What a worker and an engine process have in common: a slot, two pipes, a boot, an end."""

    kind = "worker"
    """How the story calls it."""

    def __init__(
        self,
        machine: "Machine",
        worker_id: int,
        pid: int,
        listeners: dict[str, ListenerSettings],
        limits: dict[str, LimitSettings],
    ) -> None:
        self.machine = machine
        self.world = machine.world
        self.worker_id = worker_id
        self.pid = pid
        self.listeners = listeners
        self.limits = limits
        self.slot = SimulatedSlot(self._race)
        self.alive = True
        self.frozen = False
        self.death: WorkerDeath | None = None
        self.reported = False
        """The kernel has told the supervisor of the death."""
        self.booted = False
        self.pipe = WorkerPipe(self)
        self.inbox: deque[Frame[Work]] = deque()
        """What has arrived and was not looked at."""
        self._reader = FrameReader(decoding.decode_work)
        self.next_step: Callable[[], None] | None = None
        self._step_number = 0
        self._put_off: list[Callable[[], None]] = []
        """What would have happened while it was frozen."""
        self.arrives_ns = 0
        """When the last frame sent to it arrives."""

    # Time inside the worker

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do it after `delay_s`, or when it is thawed, or never."""
        self.world.later(delay_s, lambda: self._now(action))

    def _now(self, action: Callable[[], None]) -> None:
        if self.alive and self.world.chance(self.machine.faults.freeze):
            self.freeze_for(self.world.rng.choice([0.01, 0.5, 5.0, 20.0, FOR_EVER_S]))
        if self.frozen or self.pipe.is_full:
            self._put_off.append(action)
        elif self.alive:
            action()

    def step(self, action: Callable[[], None]) -> None:
        """The next micro-step: some microseconds from now, or while the supervisor looks."""
        self.next_step = action
        self._step_number += 1
        number = self._step_number
        self.later(self.world.rng.uniform(1e-6, 2e-5), lambda: self._take_step(number))

    def _take_step(self, number: int) -> None:
        if self.next_step is not None and number == self._step_number:
            action, self.next_step = self.next_step, None
            action()

    def _race(self) -> None:
        """The supervisor looks: who knows what happens just before it does."""
        if self.world.chance(_WORLD_GOES_ON):
            self.world.run_until(self.world.now_ns + self.world.rng.randrange(2_000_000))
        while self._may_go_on and self.next_step is not None and self.world.chance(0.5):
            self._take_step(self._step_number)

    @property
    def _may_go_on(self) -> bool:
        return self.alive and not self.frozen and not self.pipe.is_full

    def freeze_for(self, seconds: float) -> None:
        """SIGSTOP, and after so long SIGCONT; FOR_EVER_S: never."""
        if not self.frozen:
            self.world.note(f"{self.kind} {self.worker_id} is stopped for {seconds:.3f} s")
            self.frozen = True
            self.machine.rules.befell()
            if seconds != FOR_EVER_S:
                self.world.later(seconds, self.thaw)

    def thaw(self) -> None:
        """SIGCONT."""
        self.frozen = False
        self.machine.rules.befell()
        self._go_on()

    def _go_on(self) -> None:
        if not self._may_go_on:
            return
        put_off, self._put_off = self._put_off, []
        for action in put_off:
            self.later(self.world.rng.uniform(0, 1e-5), action)

    def die(self, death: WorkerDeath) -> None:
        if self.alive:
            self.alive = False
            self.death = death
            self.world.note(f"{self.kind} {self.worker_id} (pid {self.pid}) is gone: {death}")
            self.has_died()
            self.world.later(self.world.rng.uniform(1e-5, 2e-3), self._report)

    def end(self) -> None:
        """Its supervisor has died, and it with that."""
        self.alive = False
        self.frozen = False

    def has_died(self) -> None:
        """What it was about is over."""
        raise NotImplementedError

    def _report(self) -> None:
        self.reported = True

    # Boot

    def boot(self) -> None:
        fault = self.machine.boot_fault()
        self.later(self.world.rng.uniform(0.1, 0.4), lambda: self._booted(fault))

    def _booted(self, fault: str | None) -> None:
        if fault == "die":
            self.die(WorkerExited(1))
        elif fault == "import error":
            self.pipe.send(AppNotImportable("simulated"), says=[])
            self.die(WorkerExited(1))
        elif fault != "hang":
            self.booted = True
            self.pipe.send(self.report(), says=[])
            self.step(self.feed)

    def report(self) -> Ready:
        """What it says when it has booted."""
        return Ready(self.listeners, FORMS, self.limits)

    # What it is given

    def receive(self, data: bytes) -> None:
        """Frames have arrived."""
        idle = self.is_idle
        self.inbox.extend(self._reader.feed(data))
        if idle and self.next_step is None:
            self.step(self.feed)

    @property
    def is_idle(self) -> bool:
        """It waits for a frame."""
        raise NotImplementedError

    def feed(self) -> None:
        """Go on with what it was given."""
        raise NotImplementedError

    def plan_flush(self) -> None:
        """What was added to its pipe leaves in time."""
        raise NotImplementedError

    def was_read(self) -> None:
        """The pipe has room again."""
        if self.pipe.is_full and self.alive:
            self.pipe.write()
            self._go_on()
