"""What the supervisor is handed from outside: workers, clients and a way to wait.

The real ones are `io.worker_processes` and `io.client_sockets`; a simulation hands it others, and
runs the real supervisor on the real SQLite against workers that die, stop, answer late or twice.
`Clock` is the fourth port, and `ServiceManager` the fifth, which most do without.
"""

from typing import NamedTuple, Protocol

from durable_bus.errors import WorkerDeath
from durable_bus.wire.framing import Frame
from durable_bus.wire.protocol import FromClient
from durable_bus.wire.slot import Slot
from durable_bus.wire.work import Report

__all__ = [
    "ClientClosed",
    "ClientSpoke",
    "Clock",
    "Connections",
    "Pool",
    "Reactor",
    "ServiceManager",
    "Unmanaged",
    "WorkerEnded",
    "WorkerSpoke",
]


class WorkerSpoke(NamedTuple):
    """A frame from a worker."""

    worker_id: int
    frame: Frame[Report]


class WorkerEnded(NamedTuple):
    """A worker process is gone, and its pipe was read to the end before this."""

    worker_id: int
    death: WorkerDeath
    started: int
    current: int = 0
    """Both as its slot said them last."""


class ClientSpoke(NamedTuple):
    """A frame from a client."""

    connection_id: int
    frame: Frame[FromClient]


class ClientClosed(NamedTuple):
    """A client's connection has ended."""

    connection_id: int
    is_parent: bool = False
    """It is the client that this supervisor was started for."""


class Pool(Protocol):
    """Worker processes, and with an engine the process that speaks for it."""

    def spawn(self, *, engine: bool = False) -> int:
        """Start a worker, or the engine process; its id, never used before in this run."""

    def end_started_ahead(self) -> None:
        """There is new code: whoever was started before `spawn` has asked has imported the old one."""

    def pid(self, worker_id: int) -> int: ...

    def slot(self, worker_id: int) -> Slot: ...

    def send(self, worker_id: int, data: bytes) -> None:
        """Queue a frame; never waits, and is silent when the worker is gone: `WorkerEnded` says so."""

    def kill(self, worker_id: int) -> None:
        """SIGKILL; `WorkerEnded` follows. Silent when it is gone already."""

    def take_events(self) -> list[WorkerSpoke | WorkerEnded]: ...

    def pause_reading(self, paused: bool) -> None:
        """Stop or go on reading answers: what a full disk cannot take stays in the pipes."""

    @property
    def has_unread(self) -> bool:
        """More lies in the pipes than the last turn took: nobody may be judged late yet."""


class Connections(Protocol):
    """Clients."""

    def send(self, connection_id: int, data: bytes) -> None:
        """Queue a frame; never waits, and is silent when the client is gone."""

    def close(self, connection_id: int) -> None:
        """Close after what is queued is sent."""

    def take_events(self) -> list[ClientSpoke | ClientClosed]:
        """A few frames of each client, in order. A client's end comes only when no frame of it is kept."""

    def keep(self, frames: list[ClientSpoke]) -> None:
        """Take back frames that could not be handled yet. They come again in the next turn, before what else
        their clients have said; until then not much more of those is read.
        """

    @property
    def has_unread(self) -> bool: ...


class Reactor(Protocol):
    """The one place where the supervisor waits."""

    def poll(self, timeout_s: float | None) -> None:
        """Wait until something is ready, at most `timeout_s`, and let pool and connections read and write."""


class Clock(Protocol):
    def now_ms(self) -> int:
        """Since the epoch, UTC: for what is written to the journal."""

    def monotonic_ns(self) -> int:
        """Never goes back, and is the same in every process of the machine: for durations."""


class ServiceManager(Protocol):
    """Who has started the daemon and looks after it, such as systemd. None of this ever waits."""

    @property
    def due_s(self) -> float | None:
        """When it wants to hear something next, monotonic; None: never."""

    def turned(self, now_s: float, open_buffers: int) -> None:
        """A turn has gone round. This is the only sign of life: a loop that hangs gives none."""

    def stopping(self) -> None:
        """A stop has begun."""


class Unmanaged:
    """Nobody looks after this supervisor: its client does, or a test."""

    due_s: float | None = None

    def turned(self, now_s: float, open_buffers: int) -> None:
        pass

    def stopping(self) -> None:
        pass
