"""Workers as a supervisor may meet them.

A simulated worker goes through the same steps as `sync_runner.SyncRunner` and `async_runner`, in
the same order: say "started", look at the limit, run, collect the answer, flush. Between any two of them it
may be stopped or die, and at any look of the supervisor into the slot it may take a step.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from durable_bus.errors import WorkerSilent
from durable_bus.payloads.forms import form_of_each
from durable_bus.payloads.outcomes import Respond
from durable_bus.payloads.packing import pack, unpack
from durable_bus.payloads.settings import LimitSettings, ListenerSettings
from durable_bus.wire.framing import Frame
from durable_bus.wire.work import Work, WorkItems, WorkMessage
from simulation.attempts import Resting, Spending
from simulation.handlers import FOR_EVER_S, Answers, Call, Dies, Handling, Outcome, Raises
from simulation.processes import SimulatedProcess
from simulation.records import key_of
from simulation.worker_pipe import Done

if TYPE_CHECKING:
    from simulation.machine import Machine

__all__ = ["SimulatedWorker"]

_FLUSH_NS = 20_000_000
_FLUSH_THREAD_S = 0.05


class SimulatedWorker(SimulatedProcess):
    """One worker process."""

    def __init__(
        self,
        machine: "Machine",
        worker_id: int,
        pid: int,
        listeners: dict[str, ListenerSettings],
        limits: dict[str, LimitSettings],
    ) -> None:
        super().__init__(machine, worker_id, pid, listeners, limits)
        self._resting = Resting(self.world, limits)
        self._spending = Spending(self)
        self._asks_whether_to_rest = False
        """A sync handler has just failed."""
        self._frame: Frame[Work] | None = None
        self._texts: list[str] = []
        self._forms: Sequence[int] = []
        self._position = 0
        self.looking_at: tuple[int, int] | None = None
        """Since when it has said "started" of which item, without having begun it."""
        self._held_up: list[Callable[[], None]] = []
        """What would have happened on the event loop."""
        self._busy = False
        self._beating = False
        self._running: Counter[str] = Counter()
        self._flush_thread_planned = False
        self._last_flush_ns = 0

    def has_died(self) -> None:
        self.machine.model.worker_died(
            self.worker_id, self.world.now_ns, self.looking_at, waited_to_write=self.pipe.is_full
        )

    # Time on the event loop

    def _on_loop(self, delay_s: float, action: Callable[[], None]) -> None:
        """The same, but a sync handler holds up the event loop, and this with it."""

        def when_free() -> None:
            if self._is_held_up:
                self._held_up.append(action)
            else:
                action()

        self.later(delay_s, when_free)

    @property
    def _is_held_up(self) -> bool:
        return self._frame is not None and not self._settings.is_async

    # What it is given

    @property
    def is_idle(self) -> bool:
        return not self.inbox and self._frame is None and self.booted

    def feed(self) -> None:
        """Begin the next item that may begin."""
        if self._busy:
            return
        if self._frame is None:
            if not self.inbox:
                return
            self._frame = self.inbox.popleft()
            self._position = 0
            self._texts = unpack(self._frame.bodies[0])
            work = self._frame.header
            digits = work.forms if isinstance(work, WorkItems) else str(work.form)
            self._forms = form_of_each(digits, len(self._texts))
            self._last_flush_ns = self.world.now_ns
            self._asks_whether_to_rest = True
        if self._position == len(self._texts):
            self._end_frame()
            return
        settings = self._settings
        asks, self._asks_whether_to_rest = self._asks_whether_to_rest or settings.is_async, False
        if asks and self._resting.returns(settings):
            self.machine.rules.returned(settings)
            self._discard_rest()
            return
        if settings.is_async and self._running[settings.name] >= settings.concurrency:
            return  # an item that ends goes on from here
        self.slot.worker_started = self._ordinal + 1
        self.looking_at = (self.world.now_ns, key_of(self._work, self._index))
        self.step(self._look)

    @property
    def _work(self) -> Work:
        assert self._frame is not None
        return self._frame.header

    @property
    def _settings(self) -> ListenerSettings:
        return self.listeners[self._work.listener]

    @property
    def _index(self) -> int:
        return 0 if isinstance(self._work, WorkMessage) else self._work.first + self._position

    @property
    def _ordinal(self) -> int:
        return self._work.ordinal + self._position

    def _look(self) -> None:
        """It said "started"; now it looks at the limit."""
        self.looking_at = None
        if self._ordinal >= self.slot.worker_limit:
            self.slot.worker_started = self._ordinal
            self._discard_rest()
            return
        work, settings, index = self._work, self._settings, self._index
        timeout_s = settings.timeout_s
        key = key_of(work, index)
        self.slot.worker_since_ns = self.world.now_ns
        before = self.begins(work, key, timeout_s)
        text, form = self._texts[self._position], self._forms[self._position]
        call = Call(self.world.rng, settings.name, text, form, work.attempt, before, work, index)
        handling = self._handle(call)
        seconds = handling.seconds
        is_over = timeout_s is not None and seconds > timeout_s
        if settings.is_async and is_over and not isinstance(handling, Dies):
            handling = Raises(timeout_s, "timeout", str(WorkerSilent(timeout_s)))
            seconds = timeout_s
            self.machine.model.late[key] += 1
        if isinstance(handling, Dies):
            self.later(seconds, lambda: self.die(handling.death))
        elif seconds != FOR_EVER_S:
            done = Done(work, index, handling, int(seconds * 1e6))
            after = self._on_loop if settings.is_async else self.later
            after(seconds, lambda: self._finish(done, settings))
        self._spending.begin(work, index, seconds)
        self._position += 1
        if settings.is_async:
            self._running[settings.name] += 1
            if not self._beating:
                self._beat()
            self.step(self.feed)
        else:
            self._busy = True

    def begins(self, work: Work, key: int, timeout_s: float | None) -> int:
        """An item or a message begins to run; how often it has run before."""
        before = self.machine.model.begins(key, self.worker_id, self.world.now_ns, timeout_s)
        self.machine.rules.begun(key)
        self.machine.pace.begun(work)
        return before

    def ends(self, done: Done) -> None:
        """A handler has returned."""
        self.machine.model.ends(done.work, done.index, done.handling)

    def _handle(self, call: Call) -> Handling:
        """Call the handler; what it answers to a message is an outcome."""
        handling = self._resting.described(self.machine.handler(call))
        if isinstance(handling, Answers) and call.is_message and handling.seconds != FOR_EVER_S:
            what = Respond(handling.form, handling.success)
            handling = Outcome(handling.seconds, what, pack([handling.text]))
        return handling

    def _discard_rest(self) -> None:
        """What has not begun of the frame is thrown away."""
        first, end = self._ordinal, self._work.ordinal + len(self._texts)
        self.pipe.discard(first, end)
        self.world.note(f"worker {self.worker_id} discards ordinals {first} to {end - 1}")
        self._end_frame()

    def plan_flush(self) -> None:
        """The flushing thread sees to it that what was added leaves in time."""
        if not self._flush_thread_planned:
            self._flush_thread_planned = True
            self.later(_FLUSH_THREAD_S, self._flush_thread)

    def _beat(self) -> None:
        """The event loop turns."""
        self._beating = bool(sum(self._running.values()))
        self.slot.worker_since_ns = self.world.now_ns if self._beating else 0
        if self._beating:
            self._on_loop(_FLUSH_THREAD_S, self._beat)

    def _finish(self, done: Done, settings: ListenerSettings) -> None:
        """A handler has returned."""
        self.ends(done)
        self._spending.end(done.work, done.index)
        self.pipe.add(done)
        self.plan_flush()
        if isinstance(done.handling, Raises):
            self._resting.raised(done.handling)
            self._asks_whether_to_rest = True
        if settings.is_async:
            self._running[settings.name] -= 1
            self._on_loop(0.02 if sum(self._running.values()) else 0.0, self._flush_async)
        else:
            self._busy = False
            if self.world.now_ns - self._last_flush_ns > _FLUSH_NS:
                self.pipe.flush()
                self._last_flush_ns = self.world.now_ns
        if self.next_step is None:
            self.step(self.feed)

    def _end_frame(self) -> None:
        if not (self._settings.is_async and sum(self._running.values())):
            self.slot.worker_since_ns = 0
        self._frame = None
        held_up, self._held_up = self._held_up, []
        for action in held_up:
            self._on_loop(0.0, action)
        self.pipe.flush()
        self.step(self.feed)

    def _flush_async(self) -> None:
        self.pipe.flush()
        if not sum(self._running.values()) and not self.pipe.is_full:
            self.slot.worker_since_ns = 0

    def _flush_thread(self) -> None:
        self._flush_thread_planned = False
        self.pipe.flush()
