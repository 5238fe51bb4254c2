"""What a simulated worker says, and the pipe through which it does."""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from durable_bus.journal.formats import packed
from durable_bus.payloads.packing import pack
from durable_bus.wire import decoding
from durable_bus.wire import work as frames
from durable_bus.wire.framing import Frame, FrameReader, encode
from durable_bus.wire.parts import Failed, Handled, Segment, Spent
from durable_bus.wire.work import Report, Work, WorkItems
from simulation.handlers import UNWRITABLE, Answers, Dies, Handling, Outcome, Raises
from simulation.records import key_of

if TYPE_CHECKING:
    from simulation.processes import SimulatedProcess

__all__ = ["Done", "WorkerPipe"]


@dataclass
class Done:
    """A handling that has ended and was not sent yet."""

    work: Work
    index: int
    handling: Handling
    micros: int


class WorkerPipe:
    """What a worker says: not sent yet, without room in the pipe, and in the pipe."""

    def __init__(self, worker: "SimulatedProcess") -> None:
        self._worker = worker
        self._machine = worker.machine
        self._world = worker.world
        self.frames: deque[Frame[Report]] = deque()
        """What it has written and the supervisor has not read. Survives it."""
        self._unwritten: deque[tuple[Frame[Report], list[tuple[int, str]]]] = deque()
        """What the pipe has no room for, and what that says of which items. Until then it waits."""
        self._unsent: list[Done] = []
        self._spent: list[Spent] = []
        self._discarded: tuple[int, int] | None = None

    @property
    def is_full(self) -> bool:
        """The worker waits until the supervisor has read."""
        return bool(self._unwritten)

    def add(self, done: Done) -> None:
        """To be sent with the next flush."""
        self._unsent.append(done)

    def add_spent(self, spent: Spent) -> None:
        """The same of what a handler has spent."""
        self._spent.append(spent)

    def discard(self, first: int, end: int) -> None:
        """These ordinals are told as thrown away with the next flush."""
        self._discarded = (min(first, self._discarded[0]) if self._discarded else first, end)

    def flush(self) -> None:
        """Write what has ended to the pipe, as `replies.Answers.flush` does."""
        if not self._unsent and not self._spent and self._discarded is None:
            return
        unsent, self._unsent = self._unsent, []
        spent, self._spent = self._spent, []
        says = [
            (key_of(done.work, done.index), "failed" if isinstance(done.handling, Raises) else "answered")
            for done in unsent
        ]
        self._send_answers(unsent, spent, self._discarded, says)
        self._discarded = None
        if unsent and self._world.chance(self._machine.faults.answer_twice):
            delay_s = self._world.rng.choice([0.0, 0.01, 0.2, 2.0])
            self._worker.later(delay_s, lambda: self._say_again(unsent, spent))

    def _say_again(self, sent: list[Done], spent: list[Spent]) -> None:
        """The same answers once more, or others to the same items, and what was spent on items."""
        # A message's attempts share its id: a failure that is told again would count for the next attempt.
        sent = [done for done in sent if not (isinstance(done.handling, Raises) and done.work.dispatch < 0)]
        again = []
        how = self._world.rng.choice(["the same", "another", "a failure", "an answer"])
        for done in sent:
            handling = done.handling
            if how == "another" and isinstance(handling, Answers):
                handling = Answers(
                    handling.seconds, f"{handling.text} again", handling.success, handling.form
                )
            elif how == "an answer" and isinstance(handling, Raises):
                handling = Answers(handling.seconds, f"too late {self._world.rng.getrandbits(32):08x}")
            elif how == "a failure" and isinstance(done.work, WorkItems):
                handling = Raises(handling.seconds, "exception", "said too late")
            if not isinstance(handling, (Raises, Dies)):
                self._machine.model.hears_of(done.work, done.index, handling)
            again.append(Done(done.work, done.index, handling, done.micros))
        self._world.note(f"worker {self._worker.worker_id} answers twice ({how})")
        self._send_answers(again, [one for one in spent if one.dispatch > 0], None, [])

    def _send_answers(
        self,
        unsent: list[Done],
        spent: list[Spent],
        discarded: tuple[int, int] | None,
        says: list[tuple[int, str]],
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
                answer = UNWRITABLE if handling.kind == "answer" else ""
                returns = (handling.final, handling.after_s, handling.limit)
                durations = packed([done.micros])
                failed.append(Failed(work.dispatch, done.index, *described, durations, answer, *returns))
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
                    form=handling.form,
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
        header = frames.Answers(
            [
                replace(segment, count=len(texts), total_us=sum(durations), durations=packed(durations))
                for segment, texts, durations in zip(segments, bodies, micros, strict=True)
            ],
            failed,
            outcomes,
            spent,
            discarded=discarded,
        )
        self.send(header, *(pack(texts) for texts in bodies), *outcome_bodies, says=says)

    def send(self, header: Report, *bodies: bytes, says: list[tuple[int, str]]) -> None:
        (frame,) = FrameReader(decoding.decode_report).feed(encode(header, *bodies))
        self.write_frame(frame, says)

    def write_frame(self, frame: Frame[Report], says: list[tuple[int, str]]) -> None:
        """It waits where the pipe has no room."""
        self._unwritten.append((frame, says))
        self.write()

    @property
    def unwritten_keys(self) -> set[int]:
        """Items and messages of which it says something that waits for room."""
        return {key for _, says in self._unwritten for key, _ in says}

    def write(self) -> None:
        """Into the pipe, as far as that has room."""
        while self._unwritten and len(self.frames) < self._machine.faults.pipe_frames:
            frame, says = self._unwritten.popleft()
            self.frames.append(frame)
            for key, state in says:
                self._machine.model.flushed(key, state)
