"""The computer: a journal, a supervisor that may die at any commit and comes back, and what befalls it."""

import itertools
import math
from pathlib import Path
from typing import Any

from durable_bus.errors import StorageFailed, StorageFull, WorkerKilled
from durable_bus.journal.journal import Journal
from durable_bus.payloads.settings import LimitSettings, ListenerSettings
from durable_bus.supervisor.config import SupervisorConfig
from durable_bus.supervisor.context import Ports
from durable_bus.supervisor.loop import Supervisor
from durable_bus.supervisor.workers.workforce import is_settled
from durable_bus.wire.spawning import EngineSpec
from simulation.clients import VERSION, Control, LimitSetter, Peer, Producer, Starter
from simulation.connections import Link, SimulatedConnections
from simulation.correspondents import Correspondent
from simulation.faults import Engine, Faults, NoRoom
from simulation.listeners import SimulatedApp
from simulation.memory import memory_is_the_journal
from simulation.memos import MemoRules
from simulation.model import Model
from simulation.pace import PaceRules
from simulation.pool import SimulatedPool
from simulation.processes import SimulatedProcess
from simulation.records import Content, Violation
from simulation.scheduling import SchedulingRules
from simulation.settling import Settling
from simulation.storage import CommitPort, Crash, copy_of_template, open_journal
from simulation.streamers import Habits, Streamer
from simulation.world import SimulatedClock, World

__all__ = ["Machine"]

_TURNS_MAX = 20_000
_IDLE_TURNS_MAX = 20
_CHECK_EVERY = 25
"""Turns between two looks at everything; results are looked at after every commit."""


class Machine:
    """Drive it with `turn` and what can befall it; `settle` ends all faults and sees everything done."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        workers: int = 2,
        app: SimulatedApp | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.seed = seed
        self.world = World(seed)
        self.rng = self.world.rng
        self.clock = SimulatedClock(self.world)
        self.listeners, self.limits, self.handler = app or SimulatedApp()
        self.code, self.code_limits = self.listeners, self.limits
        """The tables of workers that boot from now on."""
        self.spends = 0.0
        """How many of the attempts spend something."""
        self.faults = Faults()
        self.engine = engine
        """Where items run instead of in workers."""
        self.engine_boots_in_vain = 0
        """How often its process does not reach it from now on."""
        self.journal_path = folder / f"{seed}.db"
        copy_of_template(self.journal_path)
        self.model = Model(self.journal_path)
        self.model.attempts = {name: settings.attempts for name, settings in self.listeners.items()}
        self.rules = SchedulingRules(self)
        self.pace = PaceRules(self)
        self.memos = MemoRules(self)
        self.model.others.append(self.pace.check)
        self.peers: list[Peer] = []
        self.supervisor: Supervisor | None = None
        self.turns = 0
        self.commits = 0
        self.starts = 0
        self.stops = 0
        self._workers = workers
        self._code_was_another = False
        self.has_lost = False
        """Some code lacked a listener."""
        self._journal: Journal | None = None
        self._next_commit: str | None = None
        self._sends_left: int | None = None
        self._pages_left: int | None = None
        self._io_error = False
        self._idle_turns = 0
        self.clock_was_set = False
        self._stopping = False
        self._new_ids = itertools.count(1)

    # The supervisor's ports

    def poll(self, timeout_s: float | None) -> None:
        """The reactor port: wait, and then a little longer, as every loop does."""
        if timeout_s is None:
            raise Violation("the supervisor waits for ever")
        assert self.supervisor is not None
        now_ns = self.world.now_ns
        self._notice_spinning(timeout_s)
        self.pace.waits(timeout_s)
        self.rules.waits(timeout_s)
        self.world.run_until(now_ns + math.ceil(timeout_s * 1e9), self._is_ready)
        extra_s = self.rng.choice([2e-5, 1e-4, 1e-3, 1e-2])
        if self.world.chance(self.faults.pause):
            extra_s = self.rng.choice([0.1, 2.0, 60.0])
        ready_ns = self.world.now_ns
        self.world.run_until(ready_ns + int(extra_s * 1e9))
        self.rules.was_late(self.world.now_ns - ready_ns)

    def _notice_spinning(self, timeout_s: float) -> None:
        """Turns without a wait, an event or a commit are a processor that burns for nothing."""
        assert self._journal is not None
        idle = timeout_s < 1e-4 and not self._is_ready() and not self._journal.committed
        self._idle_turns = self._idle_turns + 1 if idle else 0
        if self._idle_turns > _IDLE_TURNS_MAX:
            raise Violation("the supervisor spins: it waits for nothing and does nothing")

    def _is_ready(self) -> bool:
        assert self.supervisor is not None
        return self.pool.is_ready or self.connections.is_ready or bool(self.supervisor.signals)

    def sending(self) -> None:
        """The supervisor sends a frame, and may die before it does."""
        if self._io_error:
            raise Violation("something was sent after a COMMIT of which nobody knows whether it happened")
        if self._sends_left is not None:
            if self._sends_left == 0:
                raise Crash
            self._sends_left -= 1

    def _commit_fault(self) -> str | None:
        fault, self._next_commit = self._next_commit, None
        if fault is None and self.faults.kinds and self.world.chance(self.faults.commit):
            fault = self.rng.choice(self.faults.kinds)
        if fault is not None:
            self.world.note(f"at COMMIT: {fault}")
        if fault == "crash sending":
            self._sends_left = self.rng.randrange(4)
        self._io_error = fault is not None and fault.startswith("io error")
        return fault

    def _committed(self) -> None:
        self.commits += 1
        self.model.committed()
        self.pace.committed()
        self.memos.committed()

    def boot_fault(self) -> str | None:
        if not self.world.chance(self.faults.boot):
            return None
        return self.rng.choice(["die", "die", "import error", "hang"])

    def starting_process(self) -> None:
        if self.world.chance(self.faults.no_room):
            raise NoRoom

    def connect(self, peer: Peer) -> Link | None:
        return self.connections.connect(peer) if self.supervisor is not None else None

    # Its life

    def turn(self) -> None:
        """One turn of the supervisor's loop; a new supervisor when there is none."""
        self.turns += 1
        if self.turns > _TURNS_MAX:
            raise Violation(f"not done after {_TURNS_MAX} turns")
        try:
            if self.supervisor is None:
                self._start()
            else:
                self.supervisor.turn()
        except Crash:
            self._ended("crashed", crashed=True)
        except StorageFailed:
            if not self._io_error:
                raise
            self._ended("ended: nobody knows whether its COMMIT has happened", crashed=True)
        except StorageFull:
            if self.supervisor is not None and not self._stopping:
                raise
            self._ended("ended: no room on disk to start or stop in", crashed=True)
        except NoRoom:
            if self.supervisor is not None and self.supervisor.state.listeners is not None:
                raise
            self._ended("ended: no room for a worker", crashed=True)
        else:
            if self._journal is not None and self._journal.committed:
                self.model.look()
                memory_is_the_journal(self)
            self._nobody_waits_for_what_has_come()
            self.rules.look()
            self.pace.look()
            self.memos.look()
            if self.supervisor is not None and self.supervisor.stopped:
                self.stops += 1
                # On a full disk it cannot say so: for the next run it has crashed.
                (said,) = self.model.query("SELECT stopped_at FROM run ORDER BY run_id DESC LIMIT 1")[0]
                self._ended("stopped", crashed=said is None)
        if self.turns % _CHECK_EVERY == 0:
            self.model.check()

    def _start(self) -> None:
        self.starts += 1
        self.world.note(f"supervisor {self.starts} starts")
        self._sends_left = None
        self._io_error = self._stopping = False
        self._journal = open_journal(self.journal_path, self._commit_fault, self._committed)
        if self._pages_left is not None:
            self._limit_pages()
        self.pool = SimulatedPool(self)
        self.rules.forget()
        self.pace.starts()
        self.connections = SimulatedConnections(self)
        supervisor = Supervisor(
            SupervisorConfig(
                app_name="simulated",
                pid=self.starts,
                version=VERSION,
                workers=self._workers,
                engine=None if self.engine is None else EngineSpec("simulated"),
            ),
            self._journal,
            Ports(
                self.pool,
                self.connections,
                self,
                self.clock,
                lambda: f"id{next(self._new_ids)}",
                self._log,
            ),
        )
        supervisor.start()
        self.supervisor = supervisor

    def _log(self, event: str, **fields: Any) -> None:
        self.world.note(f"log: {event} {fields}")
        self.rules.logged(event)

    @property
    def has_trouble(self) -> bool:
        """The disk is full, or pipes are not read to their end: the supervisor cannot do what it would."""
        return (
            self._pages_left is not None
            or self.faults.pipe_frames < 100
            or self.faults.read_in_parts > 0
            or (self.supervisor is not None and self.supervisor.state.storage_full)
        )

    def _ended(self, how: str, *, crashed: bool) -> None:
        self.world.note(f"supervisor {self.starts} {how}")
        self.supervisor = None
        assert self._journal is not None
        self._journal.close()
        self.pool.end()
        self.connections.end()
        self.model.supervisor_died(crashed)
        self.pace.supervisor_died()
        self.model.check()
        self.world.run_until(self.world.now_ns + int(self.rng.choice([1e6, 1e8, 2e9])))

    def _nobody_waits_for_what_has_come(self) -> None:
        supervisor = self.supervisor
        if supervisor is None or supervisor.state.storage_full:
            return  # what is kept waits for room on disk
        if self.connections.keeps_any and is_settled(supervisor.context):
            raise Violation("a client's frame waits for a worker's report, and the report has come")

    def close(self) -> None:
        if self.supervisor is not None and self._journal is not None:
            self._journal.close()
        self.model.close()
        for path in self.journal_path.parent.glob(f"{self.journal_path.name}*"):
            path.unlink()

    # What can befall it

    @property
    def producers(self) -> list[Producer]:
        """Of buffers, whole or streamed."""
        return [peer for peer in self.peers if isinstance(peer, Producer)]

    @property
    def streamers(self) -> list[Streamer]:
        return [peer for peer in self.peers if isinstance(peer, Streamer)]

    def start_buffer(
        self, content: Content, chunks: list[int], delay_s: float = 0.0, mailbox: str | None = None
    ) -> None:
        """A client comes and starts a buffer."""
        self._comes(Starter(self, f"c{len(self.peers)}", content, chunks, mailbox), delay_s)

    def stream(
        self, content: Content, habits: Habits, delay_s: float = 0.0, mailbox: str | None = None
    ) -> None:
        """A client comes and puts the items of a stream, or goes on with it."""
        self._comes(Streamer(self, f"s{len(self.peers)}", content, mailbox, habits), delay_s)

    def correspond(self, mailbox: str, letters: list[tuple[str, str]], delay_s: float = 0.0) -> None:
        """A client comes that has a mailbox, sends messages, and receives until the end."""
        self._comes(Correspondent(self, f"m{len(self.peers)}", mailbox, letters), delay_s)

    def control(self, verb: str, buffer_id: str) -> None:
        """A client comes to `cancel`, `pause` or `resume` a buffer."""
        self._comes(Control(self, f"o{len(self.peers)}", verb, buffer_id), 0.0)

    def set_limit(self, name: str, rate: str | None, running: int | None) -> None:
        """A client comes to set a limit by hand; with neither `rate` nor `running` to reset it."""
        self._comes(LimitSetter(self, f"l{len(self.peers)}", name, rate, running), 0.0)

    def paused(self) -> list[str]:
        """Buffers that are open and paused."""
        sql = (
            "SELECT buffer_id FROM buffer JOIN pause USING (buffer_seq)"
            " WHERE resumed_commit IS NULL AND ended_commit IS NULL ORDER BY buffer_seq"
        )
        return [buffer_id for (buffer_id,) in self.model.query(sql)]

    def _comes(self, peer: Peer, delay_s: float) -> None:
        self.peers.append(peer)
        self.world.later(delay_s, peer.connect)

    def at_next_commit(self, fault: str) -> None:
        """One of `storage.AT_COMMIT`."""
        self._next_commit = fault

    def crash(self) -> None:
        """The supervisor is killed between two turns."""
        if self.supervisor is not None:
            self._ended("crashed", crashed=True)

    def leave_pages(self, count: int | None) -> None:
        """The disk has room for so many more pages; None: for all."""
        self.world.note(f"room on disk: {'enough' if count is None else f'{count} pages'}")
        self._pages_left = count
        if self.supervisor is not None:
            self._limit_pages()

    def _limit_pages(self) -> None:
        assert self._journal is not None
        port: object = self._journal.connection
        assert isinstance(port, CommitPort)
        port.leave_pages(self._pages_left)

    def kill_worker(self, number: int) -> None:
        if living := self._living():
            living[number % len(living)].die(WorkerKilled(9))

    def freeze_worker(self, number: int, seconds: float) -> None:
        if living := self._living():
            worker = living[number % len(living)]
            worker.freeze_for(seconds)

    def _living(self) -> list[SimulatedProcess]:
        return self.pool.living if self.supervisor is not None else []

    def signal(self, name: str) -> None:
        """`stop` or `reload`."""
        if self.supervisor is not None:
            self.world.note(f"signal: {name}")
            self.supervisor.signals.append(name)
            self._stopping = self._stopping or name == "stop"

    def new_code(self, listeners: dict[str, ListenerSettings], limits: dict[str, LimitSettings]) -> None:
        """The app on disk is another one; a reload, or a new worker, imports it."""
        self.code, self.code_limits = listeners, limits
        self._code_was_another = True
        self.has_lost = self.has_lost or listeners.keys() != self.listeners.keys()

    def set_clock(self, seconds: float) -> None:
        """Somebody sets the wall clock forth or back."""
        self.world.note(f"the wall clock is set by {seconds:+.1f} s")
        self.world.wall_jumps_ms += int(seconds * 1000)
        self.clock_was_set = True

    def stop_faults(self) -> None:
        """No fault happens any more."""
        self.world.note("faults stop")
        self.faults = Faults()
        if self.engine is not None:
            self.engine = self.engine.without_faults()
        self._next_commit = None
        self._sends_left = None
        for streamer in self.streamers:
            streamer.habits = Habits()
        self.leave_pages(None)
        # Who hangs in boot is waited for as long as five minutes, while every client asks again and again.
        hangs = any(not worker.booted for worker in self._living())
        if hangs or self._code_was_another:  # else nothing saves a worker that is stopped but the supervisor
            self.code, self.code_limits = self.listeners, self.limits
            self.signal("reload")

    def settle(self) -> None:
        """No fault happens any more: everything completes."""
        Settling(self).run()
