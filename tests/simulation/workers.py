"""The pool port: workers as a supervisor may meet them.

A simulated worker goes through the same steps as `sync_runner.SyncRunner` and `async_runner`, in
the same order: say "started", look at the limit, run, collect the answer, flush. Between any two of them it
may be stopped or die, and at any look of the supervisor into the slot it may take a step.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from durable_bus.errors import WorkerDeath, WorkerExited, WorkerKilled, WorkerSilent
from durable_bus.journal.formats import packed
from durable_bus.payloads.outcomes import Respond
from durable_bus.payloads.packing import pack, unpack
from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor.ports import WorkerEnded, WorkerSpoke
from durable_bus.wire import decoding, protocol
from durable_bus.wire.framing import Frame, FrameReader, encode
from durable_bus.wire.parts import Failed, Handled, Segment
from durable_bus.wire.protocol import Report, Work, WorkItems, WorkMessage
from durable_bus.wire.slot import ORDINAL_MAX
from simulation.handlers import FOR_EVER_S, Answers, Call, Dies, Handling, Outcome, Raises
from simulation.model import key_of

if TYPE_CHECKING:
    from simulation.machine import Machine

__all__ = ["SimulatedPool", "SimulatedWorker"]

_FLUSH_NS = 20_000_000
_FLUSH_THREAD_S = 0.05
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


@dataclass
class _Done:
    """A handling that has ended and was not sent yet."""

    work: Work
    index: int
    handling: Handling
    micros: int


class SimulatedWorker:
    """One worker process."""

    def __init__(
        self, machine: "Machine", worker_id: int, pid: int, listeners: dict[str, ListenerSettings]
    ) -> None:
        self.machine = machine
        self.world = machine.world
        self.worker_id = worker_id
        self.pid = pid
        self.listeners = listeners
        self.is_async = any(settings.is_async for settings in listeners.values())
        self.slot = SimulatedSlot(self._race)
        self.alive = True
        self.frozen = False
        self.death: WorkerDeath | None = None
        self.reported = False
        """The kernel has told the supervisor of the death."""
        self.booted = False
        self.pipe: deque[Frame[Report]] = deque()
        """What it has written and the supervisor has not read. Survives it."""
        self._unwritten: deque[tuple[Frame[Report], list[tuple[int, str]]]] = deque()
        """What the pipe has no room for, and what that says of which items. Until then it waits."""
        self._inbox: deque[Frame[Work]] = deque()
        self._reader = FrameReader(decoding.decode_work)
        self._frame: Frame[Work] | None = None
        self._texts: list[str] = []
        self._forms: list[int] = []
        self._position = 0
        self._next_step: Callable[[], None] | None = None
        self._step_number = 0
        self._put_off: list[Callable[[], None]] = []
        """What would have happened while it was frozen."""
        self.looking_at: tuple[int, int] | None = None
        """Since when it has said "started" of which item, without having begun it."""
        self.arrives_ns = 0
        """When the last frame sent to it arrives."""
        self._held_up: list[Callable[[], None]] = []
        """What would have happened on the event loop."""
        self._busy = False
        self._beating = False
        self._running: Counter[str] = Counter()
        self._unsent: list[_Done] = []
        self._discarded: tuple[int, int] | None = None
        self._flush_thread_planned = False
        self._last_flush_ns = 0

    # Time inside the worker

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do it after `delay_s`, or when it is thawed, or never."""
        self.world.later(delay_s, lambda: self._now(action))

    def _now(self, action: Callable[[], None]) -> None:
        if self.alive and self.world.chance(self.machine.faults.freeze):
            self.freeze_for(self.world.rng.choice([0.01, 0.5, 5.0, 20.0, FOR_EVER_S]))
        if self.frozen or self._unwritten:
            self._put_off.append(action)
        elif self.alive:
            action()

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

    def _step(self, action: Callable[[], None]) -> None:
        """The next micro-step: some microseconds from now, or while the supervisor looks."""
        self._next_step = action
        self._step_number += 1
        number = self._step_number
        self.later(self.world.rng.uniform(1e-6, 2e-5), lambda: self._take_step(number))

    def _take_step(self, number: int) -> None:
        if self._next_step is not None and number == self._step_number:
            action, self._next_step = self._next_step, None
            action()

    def _race(self) -> None:
        """The supervisor looks: who knows what happens just before it does."""
        if self.world.chance(_WORLD_GOES_ON):
            self.world.run_until(self.world.now_ns + self.world.rng.randrange(2_000_000))
        while self._may_go_on and self._next_step is not None and self.world.chance(0.5):
            self._take_step(self._step_number)

    @property
    def _may_go_on(self) -> bool:
        return self.alive and not self.frozen and not self._unwritten

    def freeze_for(self, seconds: float) -> None:
        """SIGSTOP, and after so long SIGCONT; FOR_EVER_S: never."""
        if not self.frozen:
            self.world.note(f"worker {self.worker_id} is stopped for {seconds:.3f} s")
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
            self.world.note(f"worker {self.worker_id} (pid {self.pid}) is gone: {death}")
            waits = bool(self._unwritten)
            self.machine.model.worker_died(
                self.worker_id, self.world.now_ns, self.looking_at, waited_to_write=waits
            )
            self.world.later(self.world.rng.uniform(1e-5, 2e-3), self._report)

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
            self._send(protocol.AppNotImportable("simulated"), says=[])
            self.die(WorkerExited(1))
        elif fault != "hang":
            self.booted = True
            self._send(protocol.Ready(self.listeners), says=[])
            self._step(self._feed)

    # What it is given

    def receive(self, data: bytes) -> None:
        idle = not self._inbox and self._frame is None and self.booted
        self._inbox.extend(self._reader.feed(data))
        if idle and self._next_step is None:
            self._step(self._feed)

    def _feed(self) -> None:
        """Begin the next item that may begin."""
        if self._busy:
            return
        if self._frame is None:
            if not self._inbox:
                return
            self._frame = self._inbox.popleft()
            self._position = 0
            self._texts = unpack(self._frame.bodies[0])
            work = self._frame.header
            forms = work.forms if isinstance(work, WorkItems) else int(work.is_xml)
            self._forms = [forms] * len(self._texts) if isinstance(forms, int) else forms
            self._last_flush_ns = self.world.now_ns
        if self._position == len(self._texts):
            self._end_frame()
            return
        settings = self._settings
        if settings.is_async and self._running[settings.name] >= settings.concurrency:
            return  # an item that ends goes on from here
        self.slot.worker_started = self._ordinal + 1
        self.looking_at = (self.world.now_ns, key_of(self._work, self._index))
        self._step(self._look)

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
            first, end = self._ordinal, self._work.ordinal + len(self._texts)
            self._discarded = (min(first, self._discarded[0]) if self._discarded else first, end)
            self.world.note(f"worker {self.worker_id} discards ordinals {first} to {end - 1}")
            self._end_frame()
            return
        work, settings, index = self._work, self._settings, self._index
        timeout_s = settings.timeout_s
        key = key_of(work, index)
        self.slot.worker_since_ns = self.world.now_ns
        before = self.machine.model.begins(key, self.worker_id, self.world.now_ns, timeout_s)
        self.machine.rules.begun(key)
        text, is_xml = self._texts[self._position], bool(self._forms[self._position])
        call = Call(self.world.rng, settings.name, text, is_xml, work.attempt, before, work, index)
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
            done = _Done(work, index, handling, int(seconds * 1e6))
            after = self._on_loop if settings.is_async else self.later
            after(seconds, lambda: self._finish(done, settings))
        self._position += 1
        if settings.is_async:
            self._running[settings.name] += 1
            if not self._beating:
                self._beat()
            self._step(self._feed)
        else:
            self._busy = True

    def _handle(self, call: Call) -> Handling:
        """Call the handler; what it answers to a message is an outcome."""
        handling = self.machine.handler(call)
        if isinstance(handling, Answers) and call.is_message and handling.seconds != FOR_EVER_S:
            what = Respond(handling.is_xml, handling.success)
            handling = Outcome(handling.seconds, what, pack([handling.text]))
        return handling

    def _beat(self) -> None:
        """The event loop turns."""
        self._beating = bool(sum(self._running.values()))
        self.slot.worker_since_ns = self.world.now_ns if self._beating else 0
        if self._beating:
            self._on_loop(_FLUSH_THREAD_S, self._beat)

    def _finish(self, done: _Done, settings: ListenerSettings) -> None:
        """A handler has returned."""
        self.machine.model.ends(done.work, done.index, done.handling)
        self._unsent.append(done)
        if not self._flush_thread_planned:
            self._flush_thread_planned = True
            self.later(_FLUSH_THREAD_S, self._flush_thread)
        if settings.is_async:
            self._running[settings.name] -= 1
            self._on_loop(0.02 if sum(self._running.values()) else 0.0, self._flush_async)
        else:
            self._busy = False
            if self.world.now_ns - self._last_flush_ns > _FLUSH_NS:
                self.flush()
                self._last_flush_ns = self.world.now_ns
        if self._next_step is None:
            self._step(self._feed)

    def _end_frame(self) -> None:
        if not (self._settings.is_async and sum(self._running.values())):
            self.slot.worker_since_ns = 0
        self._frame = None
        held_up, self._held_up = self._held_up, []
        for action in held_up:
            self._on_loop(0.0, action)
        self.flush()
        self._step(self._feed)

    def _flush_async(self) -> None:
        self.flush()
        if not sum(self._running.values()) and not self._unwritten:
            self.slot.worker_since_ns = 0

    # What it says

    def _flush_thread(self) -> None:
        self._flush_thread_planned = False
        self.flush()

    def flush(self) -> None:
        """Write what has ended to the pipe, as `replies.Answers.flush` does."""
        if not self._unsent and self._discarded is None:
            return
        unsent, self._unsent = self._unsent, []
        says = [
            (key_of(done.work, done.index), "failed" if isinstance(done.handling, Raises) else "answered")
            for done in unsent
        ]
        self._send_answers(unsent, self._discarded, says)
        self._discarded = None
        if unsent and self.world.chance(self.machine.faults.answer_twice):
            self.later(self.world.rng.choice([0.0, 0.01, 0.2, 2.0]), lambda: self._say_again(unsent))

    def _say_again(self, sent: list[_Done]) -> None:
        """The same answers once more, or others to the same items."""
        # A message's attempts share its id: a failure that is told again would count for the next attempt.
        sent = [done for done in sent if not (isinstance(done.handling, Raises) and done.work.dispatch < 0)]
        again = []
        how = self.world.rng.choice(["the same", "another", "a failure", "an answer"])
        for done in sent:
            handling = done.handling
            if how == "another" and isinstance(handling, Answers):
                handling = Answers(
                    handling.seconds, f"{handling.text} again", handling.success, handling.is_xml
                )
            elif how == "an answer" and isinstance(handling, Raises):
                handling = Answers(handling.seconds, f"too late {self.world.rng.getrandbits(32):08x}")
            elif how == "a failure" and isinstance(done.work, WorkItems):
                handling = Raises(handling.seconds, "exception", "said too late")
            if not isinstance(handling, (Raises, Dies)):
                self.machine.model.hears_of(done.work, done.index, handling)
            again.append(_Done(done.work, done.index, handling, done.micros))
        self.world.note(f"worker {self.worker_id} answers twice ({how})")
        self._send_answers(again, None, [])

    def _send_answers(
        self, unsent: list[_Done], discarded: tuple[int, int] | None, says: list[tuple[int, str]]
    ) -> None:
        segments: list[Segment] = []
        bodies: list[list[str]] = []
        micros: list[list[int]] = []
        failed = []
        outcomes: list[Handled] = []
        outcome_bodies = []
        for done in sorted(unsent, key=lambda done: (done.work.dispatch, done.index)):
            work, handling = done.work, done.handling
            if isinstance(handling, Raises):
                trace = "a traceback" if handling.kind == "exception" else ""
                described = (handling.kind, handling.message, trace)
                failed.append(Failed(work.dispatch, done.index, *described, packed([done.micros])))
            elif isinstance(handling, Outcome):
                outcomes.append(Handled(work.dispatch, done.index, handling.what))
                outcome_bodies.append(handling.body)
            elif isinstance(handling, Answers):
                assert isinstance(work, WorkItems)
                fresh = Segment(
                    dispatch=work.dispatch,
                    buffer=work.buffer,
                    first=done.index,
                    count=0,
                    success=handling.success,
                    is_xml=handling.is_xml,
                    attempt=work.attempt,
                    total_us=0,
                    durations="",
                )
                last = segments[-1] if segments else None
                next_index = last.first + len(bodies[-1]) if last else None
                if next_index != done.index or replace(fresh, first=last.first) != last:
                    segments.append(fresh)
                    bodies.append([])
                    micros.append([])
                bodies[-1].append(handling.text)
                micros[-1].append(done.micros)
        header = protocol.Answers(
            [
                replace(segment, count=len(texts), total_us=sum(durations), durations=packed(durations))
                for segment, texts, durations in zip(segments, bodies, micros, strict=True)
            ],
            failed,
            outcomes,
            discarded,
        )
        self._send(header, *(pack(texts) for texts in bodies), *outcome_bodies, says=says)

    def _send(self, header: Report, *bodies: bytes, says: list[tuple[int, str]]) -> None:
        (frame,) = FrameReader(decoding.decode_report).feed(encode(header, *bodies))
        self._unwritten.append((frame, says))
        self.write()

    def write(self) -> None:
        """Into the pipe, as far as that has room."""
        while self._unwritten and len(self.pipe) < self.machine.faults.pipe_frames:
            frame, says = self._unwritten.popleft()
            self.pipe.append(frame)
            for key, state in says:
                self.machine.model.flushed(key, state)

    def was_read(self) -> None:
        """The pipe has room again."""
        if self._unwritten and self.alive:
            self.write()
            self._go_on()


class SimulatedPool:
    """The pool port of one supervisor's lifetime."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._world = machine.world
        self.workers: dict[int, SimulatedWorker] = {}
        self._slots: dict[int, SimulatedSlot] = {}
        self._reader = FrameReader(decoding.decode_work)
        self._paused = False
        self._unread = False
        self._next_id = 1

    @property
    def living(self) -> list[SimulatedWorker]:
        return [worker for worker in self.workers.values() if worker.alive]

    def spawn(self) -> int:
        worker_id = self._next_id
        self._next_id += 1
        used = {worker.pid for worker in self.workers.values()}
        # The kernel gives a pid again as soon as it likes.
        pid = self._world.rng.choice([pid for pid in range(100, 110 + len(used)) if pid not in used])
        worker = SimulatedWorker(self._machine, worker_id, pid, self._machine.code)
        self.workers[worker_id] = worker
        self._slots[worker_id] = worker.slot
        worker.boot()
        return worker_id

    def pid(self, worker_id: int) -> int:
        return self.workers[worker_id].pid

    def slot(self, worker_id: int) -> SimulatedSlot:
        return self._slots[worker_id]

    def send(self, worker_id: int, data: bytes) -> None:
        self._machine.sending()
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        for frame in self._reader.feed(data):
            work = frame.header
            self._machine.model.frame_sent(work, frame.bodies, worker.pid)
            if isinstance(work, WorkItems):
                count = len(unpack(frame.bodies[0]))
                first = key_of(work, work.first)
                self._machine.rules.handed_out([*range(first, first + count)], worker_id)
            self._world.note(f"to worker {worker_id}: {work}, {len(unpack(frame.bodies[0]))} payloads")
        if worker.alive and worker.arrives_ns <= self._world.now_ns and self._world.chance(0.5):
            worker.receive(data)  # it is faster than the supervisor, which still has things to do
        elif worker.alive:
            arrives_ns = self._world.now_ns + self._world.rng.randrange(10_000, 100_000)
            worker.arrives_ns = max(worker.arrives_ns, arrives_ns)
            self._world.at(worker.arrives_ns, lambda: worker.receive(data))

    def kill(self, worker_id: int) -> None:
        worker = self.workers.get(worker_id)
        if worker is not None and worker.alive:
            self._world.note(f"the supervisor kills worker {worker_id}")
            worker.die(WorkerKilled(9))

    @property
    def is_ready(self) -> bool:
        return not self._paused and any(worker.pipe or worker.reported for worker in self.workers.values())

    def take_events(self) -> list[WorkerSpoke | WorkerEnded]:
        self._unread = False
        if self._paused:
            return []
        events: list[WorkerSpoke | WorkerEnded] = []
        workers = [worker for worker in self.workers.values() if worker.pipe or worker.reported]
        self._world.rng.shuffle(workers)
        for worker in workers:
            if not worker.reported and self._world.chance(self._machine.faults.read_in_parts):
                self._unread = True
                continue
            while worker.pipe:
                frame = worker.pipe.popleft()
                if isinstance(frame.header, protocol.Answers):
                    self._machine.model.hands_in(frame.header, frame.bodies)
                events.append(WorkerSpoke(worker.worker_id, frame))
            worker.was_read()
            if worker.reported:
                assert worker.death is not None
                del self.workers[worker.worker_id]
                events.append(WorkerEnded(worker.worker_id, worker.death, worker.slot.worker_started))
        return events

    @property
    def has_unread(self) -> bool:
        return self._unread

    def pause_reading(self, paused: bool) -> None:
        self._paused = paused

    def end(self) -> None:
        """The supervisor has died, and all of its workers with it."""
        for worker in self.workers.values():
            worker.alive = False
            worker.frozen = False
        self.workers.clear()
