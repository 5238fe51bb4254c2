"""Who is charged with the death of a worker: a function of what was seen of it."""

import signal

from durable_bus.errors import WorkerDeath, WorkerKilled
from durable_bus.supervisor.entries import Worker
from durable_bus.supervisor.scheduling.leases import Suspect
from durable_bus.supervisor.scheduling.timeouts import is_async

__all__ = ["guilty"]


def guilty(
    worker: Worker, suspects: list[Suspect], death: WorkerDeath, current: int, *, stopping: bool
) -> list[Suspect]:
    """Who of the suspects is charged: the one whose step it was, the only one there is, or nobody, as long as
    nobody can say.

    `worker`: as it was before it ended. `current`: the ordinal, plus one, of the async item in whose step it
    ended, 0 for none. `stopping`: the supervisor ends it itself.
    """

    def at(ordinal: int) -> list[Suspect]:
        return [(lease, at) for lease, at in suspects if lease.first_ordinal + at == ordinal]

    late = worker.late
    if late is not None and late.ordinal is None:
        return []  # it was ended because nothing ran in it
    if current and late is not None:
        # Another one's step may have begun before the kill came: it was not late.
        return at(current - 1) if current - 1 == late.ordinal else []
    if current and _is_own_doing(death) and not stopping:
        # Of the suspects it may be none: one that was given up before, and that went on all the same.
        return at(current - 1)
    if len(suspects) == 1 and not stopping:
        return suspects
    if late is not None and late.ordinal is not None:
        return [one for one in at(late.ordinal) if not is_async(worker, one[0].listener)]
    return []


def _is_own_doing(death: WorkerDeath) -> bool:
    """The process ended by what it did itself; these signals come from somebody else, at any moment."""
    return not (isinstance(death, WorkerKilled) and death.signal_number in (signal.SIGKILL, signal.SIGTERM))
