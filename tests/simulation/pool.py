"""The pool port: starts simulated workers, hands them work, and reads what they say."""

from typing import TYPE_CHECKING

from durable_bus.errors import WorkerKilled
from durable_bus.payloads.packing import unpack
from durable_bus.supervisor.ports import WorkerEnded, WorkerSpoke
from durable_bus.wire import decoding
from durable_bus.wire.framing import FrameReader
from durable_bus.wire.work import Answers, Work, WorkItems
from simulation.engines import SimulatedEngine
from simulation.processes import SimulatedProcess, SimulatedSlot
from simulation.records import Violation, key_of

if TYPE_CHECKING:
    from simulation.machine import Machine

from simulation.workers import SimulatedWorker

__all__ = ["SimulatedPool"]


class SimulatedPool:
    """The pool port of one supervisor's lifetime."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._world = machine.world
        self.workers: dict[int, SimulatedProcess] = {}
        self._slots: dict[int, SimulatedSlot] = {}
        self._reader = FrameReader(decoding.decode_work)
        self._paused = False
        self._unread = False
        self._next_id = 1

    @property
    def living(self) -> list[SimulatedProcess]:
        return [worker for worker in self.workers.values() if worker.alive]

    def spawn(self, *, engine: bool = False) -> int:
        self._machine.starting_process()
        worker_id = self._next_id
        self._next_id += 1
        used = {worker.pid for worker in self.workers.values()}
        # The kernel gives a pid again as soon as it likes.
        pid = self._world.rng.choice([pid for pid in range(100, 110 + len(used)) if pid not in used])
        kind = SimulatedEngine if engine else SimulatedWorker
        worker = kind(self._machine, worker_id, pid, self._machine.code, self._machine.code_limits)
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
            self._is_where_it_belongs(work, worker)
            if isinstance(work, WorkItems):
                count = len(unpack(frame.bodies[0]))
                first = key_of(work, work.first)
                self._machine.rules.handed_out([*range(first, first + count)], worker_id)
            elif self._machine.engine is not None:  # nobody else could take it from this worker
                self._machine.rules.handed_out([work.dispatch], worker_id)
            self._machine.pace.sent(work, worker_id)
            self._machine.memos.sent(work, len(unpack(frame.bodies[0])), worker_id)
            self._world.note(f"to {worker.kind} {worker_id}: {work}, {len(unpack(frame.bodies[0]))} payloads")
        if worker.alive and worker.arrives_ns <= self._world.now_ns and self._world.chance(0.5):
            worker.receive(data)  # it is faster than the supervisor, which still has things to do
        elif worker.alive:
            arrives_ns = self._world.now_ns + self._world.rng.randrange(10_000, 100_000)
            worker.arrives_ns = max(worker.arrives_ns, arrives_ns)
            self._world.at(worker.arrives_ns, lambda: worker.receive(data))

    def _is_where_it_belongs(self, work: Work, worker: SimulatedProcess) -> None:
        """Items go to the engine, where there is one, and messages to the worker beside it."""
        if isinstance(worker, SimulatedEngine) and isinstance(work, WorkItems):
            ((alone,),) = self._machine.model.query(
                "SELECT alone FROM dispatch WHERE dispatch_id = ?", work.dispatch
            )
            worker.sent(work, alone=bool(alone))
            self._machine.rules.keeps_free(work, worker.worker_id)
        elif isinstance(worker, SimulatedEngine):
            raise Violation(f"{work} was sent to the engine")
        elif self._machine.engine is not None and isinstance(work, WorkItems):
            raise Violation(f"{work} was sent to a worker beside the engine")

    def kill(self, worker_id: int) -> None:
        worker = self.workers.get(worker_id)
        if worker is not None and worker.alive:
            self._world.note(f"the supervisor kills {worker.kind} {worker_id}")
            if isinstance(worker, SimulatedEngine):
                assert self._machine.supervisor is not None
                seen = self._machine.supervisor.state.workers.get(worker_id)
                worker.is_killed(is_leaving=seen is not None and seen.leaving)
            worker.die(WorkerKilled(9))

    @property
    def is_ready(self) -> bool:
        return not self._paused and any(
            worker.pipe.frames or worker.reported for worker in self.workers.values()
        )

    def take_events(self) -> list[WorkerSpoke | WorkerEnded]:
        self._unread = False
        if self._paused:
            return []
        events: list[WorkerSpoke | WorkerEnded] = []
        workers = [worker for worker in self.workers.values() if worker.pipe.frames or worker.reported]
        self._world.rng.shuffle(workers)
        for worker in workers:
            if not worker.reported and self._world.chance(self._machine.faults.read_in_parts):
                self._unread = True
                continue
            while worker.pipe.frames:
                frame = worker.pipe.frames.popleft()
                if isinstance(frame.header, Answers):
                    self._machine.model.hands_in(frame.header, frame.bodies)
                    self._machine.pace.hands_in(frame.header)
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

    def end_started_ahead(self) -> None:
        """Nobody is."""

    def pause_reading(self, paused: bool) -> None:
        self._paused = paused

    def end(self) -> None:
        """The supervisor has died, and all of its workers with it."""
        for worker in self.workers.values():
            worker.end()
        self.workers.clear()
