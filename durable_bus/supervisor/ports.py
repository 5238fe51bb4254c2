"""What the supervisor is handed from outside: workers, clients and a way to wait.

The real ones are `io.worker_processes` and `io.client_sockets`; a simulation hands it others, and
runs the real supervisor on the real SQLite against workers that die, stop, answer late or twice.
`Clock` is the fourth port.
"""

from dataclasses import dataclass
from typing import Protocol

from durable_bus.errors import WorkerDeath
from durable_bus.wire.framing import Frame
from durable_bus.wire.protocol import FromClient, Report
from durable_bus.wire.slot import ORDINAL_MAX, Slot

__all__ = [
    "ORDINAL_MAX",
    "ClientClosed",
    "ClientSpoke",
    "Clock",
    "Connections",
    "Pool",
    "Reactor",
    "Slot",
    "WorkerEnded",
    "WorkerSpoke",
]


@dataclass(frozen=True, slots=True)
class WorkerSpoke:
    """A frame from a worker."""

    worker_id: int
    frame: Frame[Report]


@dataclass(frozen=True, slots=True)
class WorkerEnded:
    """A worker process is gone, and its pipe was read to the end before this."""

    worker_id: int
    death: WorkerDeath
    started: int
    """What its slot said last."""
    current: int = 0
    """The same; whose step it was in which it ended."""


@dataclass(frozen=True, slots=True)
class ClientSpoke:
    """A frame from a client."""

    connection_id: int
    frame: Frame[FromClient]


@dataclass(frozen=True, slots=True)
class ClientClosed:
    """A client's connection has ended."""

    connection_id: int
    is_parent: bool = False
    """It is the client that this supervisor was started for."""


class Pool(Protocol):
    """Worker processes."""

    def spawn(self) -> int:
        """Start a worker; its id, never used before in this run."""
        ...

    def pid(self, worker_id: int) -> int: ...

    def slot(self, worker_id: int) -> Slot: ...

    def send(self, worker_id: int, data: bytes) -> None:
        """Queue a frame; never waits, and is silent when the worker is gone: `WorkerEnded` says so."""
        ...

    def kill(self, worker_id: int) -> None:
        """SIGKILL; `WorkerEnded` follows. Silent when it is gone already."""
        ...

    def take_events(self) -> list[WorkerSpoke | WorkerEnded]:
        """What has happened since the last call."""
        ...

    def pause_reading(self, paused: bool) -> None:
        """Stop or go on reading answers: what a full disk cannot take stays in the pipes."""
        ...

    @property
    def has_unread(self) -> bool:
        """More lies in the pipes than the last turn took: nobody may be judged late yet."""
        ...


class Connections(Protocol):
    """Clients."""

    def send(self, connection_id: int, data: bytes) -> None:
        """Queue a frame; never waits, and is silent when the client is gone."""
        ...

    def close(self, connection_id: int) -> None:
        """Close after what is queued is sent."""
        ...

    def take_events(self) -> list[ClientSpoke | ClientClosed]:
        """What has happened since the last call: a few frames of each client, in order.

        A client's end comes only when no frame of it is kept.
        """
        ...

    def keep(self, frames: list[ClientSpoke]) -> None:
        """Take back frames that could not be handled yet. They come again in the next turn, the first one
        first and each before what else its client has said; until then not much more of it is read.
        """
        ...

    @property
    def has_unread(self) -> bool:
        """More has come than the last turn took."""
        ...


class Reactor(Protocol):
    """The one place where the supervisor waits."""

    def poll(self, timeout_s: float | None) -> None:
        """Wait until something is ready, or for `timeout_s` seconds, and let pool and connections read and
        write it.
        """
        ...


class Clock(Protocol):
    """What the supervisor asks about time."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC: for what is written to the journal."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds that never go back, the same clock in every process of the machine: for durations."""
        ...
