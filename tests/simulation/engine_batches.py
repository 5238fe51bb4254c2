"""What an engine runs: a batch, in a worker without a supervisor of its own, and what that says of it."""

from typing import TYPE_CHECKING

from durable_bus.payloads.packing import unpack
from durable_bus.wire import decoding
from durable_bus.wire.framing import Frame, FrameReader, encode
from durable_bus.wire.work import Report, Work, WorkItems
from simulation.records import key_of
from simulation.worker_pipe import Done, WorkerPipe
from simulation.workers import SimulatedWorker

if TYPE_CHECKING:
    from simulation.engines import SimulatedEngine

__all__ = ["Batch"]


class Batch(SimulatedWorker):
    """What runs a batch in an engine, from its submission on. It answers when all of it has ended."""

    kind = "batch"

    def __init__(self, engine: "SimulatedEngine", frame: Frame[Work]) -> None:
        super().__init__(engine.machine, engine.worker_id, engine.pid, engine.listeners, engine.limits)
        self.engine = engine
        self.frame = frame
        self.dispatch = frame.header.dispatch
        self.count = len(unpack(frame.bodies[0]))
        self.keys = [key_of(frame.header, index) for index in self._indexes()]
        self.pipe = _Reply(self)
        self.booted = True
        self.begun_ns: int | None = None
        """Since when the engine may run it, as its process sees it."""
        self.is_given_up = False
        """It is lost, or its engine process is gone: what it does is nobody's any more."""
        self.has_ended = False

    def _indexes(self) -> range:
        work = self.frame.header
        assert isinstance(work, WorkItems)
        return range(work.first, work.first + self.count)

    def start(self) -> None:
        self.inbox.append(self.frame)
        self.step(self.feed)

    def begins(self, work: Work, key: int, timeout_s: float | None) -> int:
        """What is handed to an engine has begun for its supervisor, and so for its limits."""
        model = self.machine.model
        if self.is_given_up:
            model.executions_so_far[key] += 1
            return model.executions_so_far[key] - 1
        return model.begins(key, self.worker_id, self.world.now_ns, timeout_s)

    def ends(self, done: Done) -> None:
        if self.is_given_up:
            self.machine.model.hears_of(done.work, done.index, done.handling)
        else:
            super().ends(done)

    def has_died(self) -> None:
        self.engine.batch_died(self)

    def _report(self) -> None:
        """No kernel tells a supervisor of it."""

    def _end_frame(self) -> None:
        super()._end_frame()
        self._may_have_ended()

    def _flush_async(self) -> None:
        super()._flush_async()
        self._may_have_ended()

    def _may_have_ended(self) -> None:
        runs = self._frame is not None or self.inbox or sum(self._running.values())
        if not runs and not self.has_ended:
            self.pipe.flush()
            self.has_ended = True
            self.engine.batch_ended(self)

    def give_up(self, *, goes_on: bool) -> None:
        """Its items are lost to its engine process, or that process is gone."""
        self.is_given_up = True
        self.alive = self.alive and goes_on


Says = list[tuple[int, str]]


class _Reply(WorkerPipe):
    """What a batch's worker says, until all of it is written at once. What it says after that is a reply that
    comes twice.
    """

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self._batch = batch
        self.reply: list[tuple[Frame[Report], Says]] = []

    def send(self, header: Report, *bodies: bytes, says: Says) -> None:
        (frame,) = FrameReader(decoding.decode_report).feed(encode(header, *bodies))
        if self._batch.has_ended and not self._batch.engine.holds(self._batch):
            self._batch.engine.say_again(frame)
        else:
            self.reply.append((frame, says))
