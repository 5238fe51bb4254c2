"""Engine processes as a supervisor may meet them, and the engines behind them.

A simulated engine process goes through the same steps as `engines.process`, in the same order: say "started"
of a whole batch, look at the limit, submit, and later write what a batch's worker has answered, whole, or say
`Lost`. What runs a batch is a simulated worker without a supervisor of its own.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from durable_bus.errors import WorkerExited
from durable_bus.payloads.forms import digits_of, form_of_each
from durable_bus.payloads.packing import pack, unpack
from durable_bus.payloads.settings import LimitSettings, ListenerSettings
from durable_bus.wire.framing import Frame
from durable_bus.wire.work import Lost, Ready, Report, Work, WorkItems
from simulation.engine_batches import Batch
from simulation.faults import Engine
from simulation.handlers import FORMS
from simulation.processes import SimulatedProcess
from simulation.records import Violation, key_of

if TYPE_CHECKING:
    from simulation.machine import Machine

__all__ = ["SimulatedEngine"]

_TURN_S = 0.25
"""How often it looks at what nothing tells: time-outs, and whether the engine is there."""
_REFUSED_S = 1.0
"""A batch that a worker has refused keeps its place for so long."""
_WELL_S = 1.0
"""An engine process that was neither stopped nor kept from writing for so long comes round in time."""


class SimulatedEngine(SimulatedProcess):
    """An engine process, and the engine behind it."""

    kind = "engine"

    def __init__(
        self,
        machine: "Machine",
        worker_id: int,
        pid: int,
        listeners: dict[str, ListenerSettings],
        limits: dict[str, LimitSettings],
    ) -> None:
        super().__init__(machine, worker_id, pid, listeners, limits)
        self.places = self.world.rng.randint(1, self._engine.places)
        self._capacity = self.world.rng.randint(1, self.places)
        self._held: dict[int, Batch] = {}
        """By dispatch, in the order they came."""
        self._refused: dict[int, tuple[Batch, int]] = {}
        """Batches that a worker has refused, and until when they keep their place."""
        self._queue: list[Batch] = []
        """What the engine has and does not run yet."""
        self._running: list[Batch] = []
        self._taking: Frame[Work] | None = None
        """It has said "started" of this, and not looked at the limit."""
        self._said_ns = 0
        """When it said so."""
        self._turns = False
        """It is to look again in a quarter of a second."""
        self._is_going = False
        """Its engine is gone, and so will it be."""
        self.outstanding: dict[int, bool] = {}
        """Dispatches sent to it of which it has not said how they ended, and whether they must be alone."""
        self._troubled_ns = self.world.now_ns
        """When it was last kept from coming round."""
        self.ended_by_supervisor = False

    @property
    def _engine(self) -> Engine:
        """As it is just now: in the end faults stop."""
        assert self.machine.engine is not None
        return self.machine.engine

    def boot(self) -> None:
        fault = self.machine.boot_fault()
        if self.machine.engine_boots_in_vain:
            self.machine.engine_boots_in_vain -= 1
            fault = self.world.rng.choice(["die", "import error"])
        self.later(self.world.rng.uniform(0.1, 0.4), lambda: self._booted(fault))

    def report(self) -> Ready:
        return Ready(self.listeners, FORMS, self.limits, places=self.places)

    # What the supervisor does

    def sent(self, work: WorkItems, *, alone: bool) -> None:
        """A dispatch leaves for it."""
        if len(self.outstanding) >= self.places:
            raise Violation(f"{work} was sent to an engine that holds {len(self.outstanding)} dispatches")
        if self.outstanding and alone:
            raise Violation(f"{work} must be alone, and was sent to an engine that holds {self.outstanding}")
        if any(self.outstanding.values()):
            raise Violation(f"{work} was sent beside what must be alone: {self.outstanding}")
        self.outstanding[work.dispatch] = alone

    def is_killed(self, *, is_leaving: bool) -> None:
        """The supervisor kills it."""
        self.ended_by_supervisor = True
        silent_s = (self.world.now_ns - self._troubled_ns) / 1e9
        is_well = self.booted and not self.frozen and not self.pipe.is_full and silent_s > _WELL_S
        if is_well and not is_leaving:
            raise Violation(
                f"engine process {self.worker_id} is killed, and it was well for {silent_s:.3f} s"
            )

    def freeze_for(self, seconds: float) -> None:
        super().freeze_for(seconds)
        self._troubled_ns = self.world.now_ns

    def thaw(self) -> None:
        self._troubled_ns = self.world.now_ns
        super().thaw()

    def was_read(self) -> None:
        if self.pipe.is_full:
            self._troubled_ns = self.world.now_ns
        super().was_read()

    # What it is given

    @property
    def is_idle(self) -> bool:
        return not self.inbox and self._taking is None and self.booted

    def feed(self) -> None:
        if self._taking is not None or not self.inbox or self._is_going:
            return
        self._taking = self.inbox.popleft()
        work = self._taking.header
        self._said_ns = self.slot.worker_since_ns = self.world.now_ns
        self.slot.worker_started = work.ordinal + len(unpack(self._taking.bodies[0]))
        self.step(self._look_at_limit)

    def _look_at_limit(self) -> None:
        frame, self._taking = self._taking, None
        assert frame is not None
        work, end = frame.header, self.slot.worker_started
        limit = max(work.ordinal, self.slot.worker_limit)
        if limit < end:
            self.slot.worker_started = limit
            self.pipe.discard(limit, end)
            self.pipe.flush()
            self.world.note(f"engine {self.worker_id} discards ordinals {limit} to {end - 1}")
        if limit > work.ordinal:
            self._submit(frame if limit >= end else _first_of(frame, limit - work.ordinal))
        else:
            self.outstanding.pop(work.dispatch, None)
        self._goes_round()
        self.step(self.feed)

    def _submit(self, frame: Frame[Work]) -> None:
        batch = Batch(self, frame)
        for key in batch.keys:
            self.machine.rules.begun(key)
            # It says so before it looks at the limit, and may be stopped between the two.
            self.machine.pace.begun(frame.header, self._said_ns)
        self._held[batch.dispatch] = batch
        if self.world.chance(self._engine.submit):
            self._is_refused(batch)
            return
        self._queue.append(batch)
        self.world.later(self.world.rng.uniform(1e-5, 1e-3), self._run_more)

    # What happens in the engine, which goes on when its process is stopped

    def _run_more(self) -> None:
        """It need not begin them in their order."""
        while self.alive and self._queue and len(self._running) < self._capacity:
            batch = self._queue.pop(self.world.rng.choice([0, -1]))
            if self.world.chance(self._engine.refuse):
                self._after(lambda batch=batch: self._is_refused(batch))
                continue
            self._running.append(batch)
            if self.world.chance(self._engine.slow):
                self.world.later(batch.count * self.world.rng.uniform(0.5, 3.0), batch.start)
            else:
                batch.start()

    def batch_ended(self, batch: Batch) -> None:
        """Its reply is on its way."""
        self._forget(batch)
        self._after(lambda: self._take_done(batch))

    def batch_died(self, batch: Batch) -> None:
        """The process that ran it has ended, and maybe those of others with it. A broken pool loses what it
        has not begun, too.
        """
        if batch.is_given_up:
            return
        alone = self._is_alone(batch)
        others = [*self._running, *self._queue]
        if self._engine.neighbours == "none":
            others = []
        elif self._engine.neighbours == "some":
            others = [one for one in others if self.world.chance(0.5)]
        gone = [batch, *(one for one in others if one is not batch)]
        for one in gone:
            one.alive = False
            self._forget(one)
        parts = [gone] if self.world.chance(0.5) else [[one] for one in gone]
        for part in parts:
            self._after(lambda part=part: self._lost(part, "lost", alone=alone))
        self._run_more()

    def _forget(self, batch: Batch) -> None:
        self._running = [one for one in self._running if one is not batch]
        self._queue = [one for one in self._queue if one is not batch]
        self.world.later(self.world.rng.uniform(1e-5, 1e-3), self._run_more)

    def _after(self, action: Callable[[], None]) -> None:
        """Its process is told, and comes to it."""

        def then() -> None:
            if not self._is_going:
                action()
                self._goes_round()

        self.later(self.world.rng.uniform(1e-5, 2e-3), then)

    # What it says

    def _take_done(self, batch: Batch) -> None:
        if not self.holds(batch):
            if self.world.chance(self._engine.late_reply):
                self.world.note(f"engine {self.worker_id} writes a late reply of {batch.dispatch}")
                for frame, _ in batch.pipe.reply:
                    self.pipe.write_frame(frame, [])
            return
        del self._held[batch.dispatch]
        for frame, says in batch.pipe.reply:
            self.pipe.write_frame(frame, says)
        self.outstanding.pop(batch.dispatch, None)

    def holds(self, batch: Batch) -> bool:
        """It waits for what comes of it."""
        return self._held.get(batch.dispatch) is batch

    def say_again(self, frame: Frame[Report]) -> None:
        """A reply comes twice."""
        if self.alive and not self._is_going:
            self.pipe.write_frame(frame, [])

    def _is_refused(self, batch: Batch) -> None:
        if self._held.pop(batch.dispatch, None) is not None:
            self._refused[batch.dispatch] = (batch, self.world.now_ns + int(_REFUSED_S * 1e9))

    def _is_alone(self, batch: Batch) -> bool:
        """It is one item, and all that its process has."""
        return batch.count == 1 and self._keys_in_hand() <= {*batch.keys}

    def _keys_in_hand(self) -> set[int]:
        batches = [*self._held.values(), *(batch for batch, _ in self._refused.values())]
        taking = [] if self._taking is None else [self._taking]
        keys = {key for batch in batches for key in batch.keys} | self.pipe.unwritten_keys
        for frame in [*taking, *self.inbox]:
            work = frame.header
            assert isinstance(work, WorkItems)
            keys |= {key_of(work, work.first + at) for at in range(len(unpack(frame.bodies[0])))}
        return keys

    def _lost(self, batches: list[Batch], how: Literal["lost", "late", "returned"], *, alone: bool) -> None:
        """Say that nothing comes back of these. `alone`: the first of them was alone in the engine."""
        batches = [one for one in batches if one.dispatch in self._held or one.dispatch in self._refused]
        if not batches:
            return
        model = self.machine.model
        for batch in batches:
            self._held.pop(batch.dispatch, None)
            self._refused.pop(batch.dispatch, None)
            self._forget(batch)
            batch.give_up(goes_on=self.world.chance(self._engine.goes_on))
            self.outstanding.pop(batch.dispatch, None)
        if alone and how == "lost":
            model.deaths_near[batches[0].keys[0]] += 1
        elif alone and how == "late":
            model.late[batches[0].keys[0]] += 1
        told = Lost([batch.dispatch for batch in batches], how, "simulated")
        self.world.note(f"engine {self.worker_id} says {told}")
        says = [(key, "gone") for batch in batches for key in batch.keys]
        self.pipe.send(told, says=says)

    # What nobody tells it

    def plan_flush(self) -> None:
        """It writes at once."""

    def _goes_round(self) -> None:
        """Its loop turns: now, and four times a second while it holds something."""
        if self._is_going or not self.alive:
            return
        self._look()
        holds = bool(self._held or self._refused)
        self.slot.worker_since_ns = self.world.now_ns if holds else 0
        if holds and not self._turns:
            self._turns = True
            self.later(_TURN_S, self._turn)

    def _turn(self) -> None:
        self._turns = False
        if self.world.chance(self._engine.gone):
            self._goes()
        else:
            self._goes_round()

    def _look(self) -> None:
        now_ns = self.world.now_ns
        for batch in [batch for batch, until_ns in self._refused.values() if until_ns <= now_ns]:
            self._lost([batch], "returned", alone=False)
        for batch in [*self._held.values()][: self._capacity]:
            batch.begun_ns = batch.begun_ns or now_ns
        for batch in [*self._held.values()]:
            timeout_s = self.listeners[batch.frame.header.listener].timeout_s
            if timeout_s is None or batch.begun_ns is None:
                continue
            if now_ns - batch.begun_ns > batch.count * timeout_s * 1e9:
                self._lost([batch], "late", alone=self._is_alone(batch))

    # Its end

    def _goes(self) -> None:
        """Its engine is gone: what it holds comes back, and nothing of it is charged."""
        self.world.note(f"the engine behind {self.worker_id} is gone")
        self._lost(
            [*self._held.values(), *(one for one, _ in self._refused.values())], "returned", alone=False
        )
        self._is_going = True
        self.machine.engine_boots_in_vain = self.world.rng.choice([0, 0, 1, 2, 5])
        self.later(self.world.rng.uniform(1e-5, 0.3), lambda: self.die(WorkerExited(1)))

    def has_died(self) -> None:
        started = self._keys_in_hand() - {
            key_of(frame.header, frame.header.first + at)
            for frame in self.inbox
            if isinstance(frame.header, WorkItems)
            for at in range(len(unpack(frame.bodies[0])))
        }
        is_near = len(started) == 1 and not self.ended_by_supervisor
        self.machine.model.engine_died(self.worker_id, started if is_near else set())
        self._give_up()

    def end(self) -> None:
        super().end()
        self._give_up()

    def _give_up(self) -> None:
        """What the engine runs is nobody's any more, and may go on all the same."""
        for batch in [*self._held.values(), *self._running]:
            batch.give_up(goes_on=self.world.chance(self._engine.goes_on))


def _first_of(frame: Frame[Work], count: int) -> Frame[Work]:
    """The first items of a range."""
    work = frame.header
    assert isinstance(work, WorkItems)
    texts = unpack(frame.bodies[0])
    forms = digits_of(bytes(form_of_each(work.forms, len(texts))[:count]))
    return frame._replace(header=replace(work, forms=forms), bodies=[pack(texts[:count])])
