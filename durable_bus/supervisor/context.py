"""What every part of the supervisor works with: settings, journal, state, outbox, ports."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from durable_bus.journal.journal import Journal
from durable_bus.supervisor.config import SupervisorConfig
from durable_bus.supervisor.entries import Worker
from durable_bus.supervisor.figures import Counting
from durable_bus.supervisor.outbox import Outbox
from durable_bus.supervisor.ports import Clock, Connections, Pool, Reactor, ServiceManager, Unmanaged
from durable_bus.supervisor.state import State
from durable_bus.wire.slot import ORDINAL_MAX, Slot

__all__ = ["Context", "Ports"]


class Ports(NamedTuple):
    """What the supervisor is handed from outside. A simulation hands it others (`ports`)."""

    pool: Pool
    connections: Connections
    reactor: Reactor
    clock: Clock
    new_id: Callable[[], str]
    log: Callable[..., None]
    manager: ServiceManager = Unmanaged()


@dataclass(frozen=True, slots=True)
class Context:
    """Handed to every function that takes part in a turn. The journal is inside a commit then."""

    config: SupervisorConfig
    journal: Journal
    state: State
    outbox: Outbox
    ports: Ports
    counting: Counting = field(default_factory=Counting, init=False)

    def now_s(self) -> float:
        """The monotonic clock, in seconds."""
        return self.ports.clock.monotonic_ns() / 1e9

    def slot(self, worker_id: int) -> Slot:
        return self.ports.pool.slot(worker_id)

    def room(self, worker: Worker) -> int:
        """How many items a worker may still be given before a fresh one replaces it.

        There is no limit while the app cannot be imported: a worn-out worker is better than none.
        """
        most = self.config.items_per_worker_max
        if most is None or worker.places or self.state.import_error is not None:
            return ORDINAL_MAX
        return max(0, most - worker.next_ordinal)
