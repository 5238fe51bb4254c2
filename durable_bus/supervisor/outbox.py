"""What leaves the supervisor in this turn: gathered inside a commit, sent after it, forgotten when it is
refused.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from durable_bus.errors import DurableBusError
from durable_bus.supervisor.ports import Connections, Pool
from durable_bus.wire.decoding import error_frame
from durable_bus.wire.framing import encode
from durable_bus.wire.protocol import ToClient

__all__ = ["Outbox"]


class Outbox:
    """Frames to workers and clients, and what else is to be done once the commit has happened."""

    def __init__(
        self, pool: Pool, connections: Connections, log: Callable[..., None] = lambda event, **facts: None
    ) -> None:
        self._pool = pool
        self._connections = connections
        self._log = log
        self._to_workers: defaultdict[int, list[bytes]] = defaultdict(list)
        """All that one receiver is sent in a turn goes at once: a write costs more than what is written."""
        self._to_clients: defaultdict[int, list[bytes]] = defaultdict(list)
        self._hang_ups: set[int] = set()
        self._kills: list[int] = []
        self._events: list[tuple[str, dict[str, Any]]] = []

    def to_worker(self, worker_id: int, data: bytes) -> None:
        self._to_workers[worker_id].append(data)

    def to_client(self, connection_id: int, frame: ToClient) -> None:
        self._to_clients[connection_id].append(encode(frame))

    def hang_up(self, connection_id: int, error: DurableBusError) -> None:
        """Close a connection, and say why. What its client has said meanwhile is not to be heard any more."""
        self.to_client(connection_id, error_frame(error))
        self._hang_ups.add(connection_id)

    def is_hanging_up(self, connection_id: int) -> bool:
        return connection_id in self._hang_ups

    def kill(self, worker_id: int) -> None:
        self._kills.append(worker_id)

    def log(self, event: str, **facts: Any) -> None:
        """A line for the log; what a refused commit did has not happened, and is not told."""
        self._events.append((event, facts))

    def send(self) -> None:
        """After the commit. If we die half-way, the next start finds every fact and sends what matters."""
        for worker_id, frames in self._to_workers.items():
            self._pool.send(worker_id, b"".join(frames))
        for connection_id, frames in self._to_clients.items():
            self._connections.send(connection_id, b"".join(frames))
        for connection_id in self._hang_ups:
            self._connections.close(connection_id)
        for worker_id in self._kills:
            self._pool.kill(worker_id)
        for event, facts in self._events:
            self._log(event, **facts)
        self.clear()

    def clear(self) -> None:
        self._to_workers.clear()
        self._to_clients.clear()
        self._hang_ups.clear()
        self._kills.clear()
        self._events.clear()
