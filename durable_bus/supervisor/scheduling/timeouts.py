"""Time-outs: who is late with an item, by its listener's time-out, or with beginning what it was given.

`what_runs` and `verdict` are functions of what is seen of one worker. `judge` looks at all of them, and kills
or asks.
"""

from collections.abc import Sequence
from typing import NamedTuple

from durable_bus.errors import WorkerSilent, WorkerUnresponsive
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import Late, Lease, Worker
from durable_bus.supervisor.scheduling import recall
from durable_bus.wire.slot import Slot

__all__ = [
    "Running",
    "Seen",
    "expect",
    "is_async",
    "judge",
    "running",
    "verdict",
    "what_runs",
]

ASYNC_GRACE_S = 10.0
"""A worker whose event loop has not turned for a listener's time-out and this long is killed."""
ASK_AFTER_S = 1.0
"""From a worker that could begin something and has not for so long, all of it is taken back: it is told to
begin nothing, and answers when it comes to that.
"""
KILL_AFTER_S = 3.0
"""One that has not answered so long after it was asked is killed and replaced. Nobody is charged: nothing of
it had begun. Where a worker gets no processor for some four seconds it is lost, too, and no item is.
"""
ENGINE_SILENT_S = 30.0
"""An engine process that has not come round for so long is killed. Nobody is charged."""
LOOK_AGAIN_S = 0.25
"""Who seems late is looked at once more, this much later: it may have waited for us to read what it had to
say. And as often as this, who does not begin what it was given.
"""


class Seen(NamedTuple):
    """What a worker's slot says (`wire.slot`)."""

    started: int
    since_ns: int
    current: int


class Running(NamedTuple):
    """What a worker runs: the sync item it started last, or the first async one it has not answered."""

    lease: Lease
    ordinal: int
    seconds: float
    """Since it was started (sync), its step began, or the event loop last turned (async)."""
    has_thread: bool
    """It runs just now, and nothing else can: a sync item, or a step of an async one."""
    since_ns: int = 0
    """What the slot says of that, monotonic."""


class Verdict(NamedTuple):
    """What is to be done about a worker, and when it is to be looked at again."""

    look_again_s: float
    late: Late | None = None
    """Kill it for this."""
    ask: bool = False
    """Take back what it has not begun: if it lives it answers."""
    seems_late: tuple[int, int, float] | None = None
    """What it has run for too long, since when, and since when that is known: it is looked at once more."""
    mark: tuple[int, int] | None = None
    """How far one had come that could begin or report something and has not."""
    stalled_s: float = 0.0
    """For how long it has come no further, of the time in which the supervisor looked. When that was stopped
    for a minute, its workers may have been stopped with it.
    """


def is_async(worker: Worker, listener: str) -> bool:
    """Whether a worker may run other items beside those of a listener."""
    settings = worker.settings(listener)
    return worker.places > 0 or (settings is not None and settings.is_async)


def _timeout_s(worker: Worker, lease: Lease) -> float | None:
    settings = worker.settings(lease.listener)
    return None if settings is None else settings.timeout_s


def what_runs(worker: Worker, held: Sequence[Lease], seen: Seen, now_ns: int) -> Running | None:
    """What runs in a worker; None: nothing."""
    if seen.since_ns == 0:
        return None
    seconds = (now_ns - seen.since_ns) / 1e9
    first: Running | None = None
    for lease in held:
        # A sync item has the thread to itself, also beside async ones: those wait on the loop it blocks.
        ordinal = (seen.current if is_async(worker, lease.listener) else seen.started) - 1
        position = ordinal - lease.first_ordinal
        if 0 <= position < lease.item_count and not lease.answered >> position & 1:
            return Running(lease, ordinal, seconds, has_thread=True, since_ns=seen.since_ns)
        opened = lease.first_open_position()
        if first is None and opened is not None and lease.first_ordinal + opened < seen.started:
            first = Running(lease, lease.first_ordinal + opened, seconds, False, seen.since_ns)
    return first


def verdict(
    worker: Worker, held: Sequence[Lease], runs: Running, before: Verdict | None, now_s: float
) -> Verdict:
    """Whether a worker is late with what runs in it.

    It is late when it still runs the same item, since the same moment, `LOOK_AGAIN_S` after its time-out was
    first seen to be over. A slot may say since when the item before ran, while the worker waits for us to
    read of that. `before`: the verdict of the last look.
    """
    if worker.places:  # which of its items is late the engine process says
        late = Late(WorkerUnresponsive(), None) if runs.seconds > ENGINE_SILENT_S else None
        return Verdict(KILL_AFTER_S, late)
    dues_s = [KILL_AFTER_S]  # it may stop between two items, which nothing else would make us see
    dues_s += [allowed_s for lease in held if (allowed_s := _timeout_s(worker, lease)) is not None]
    timeout_s = _timeout_s(worker, runs.lease)
    if timeout_s is None:
        return Verdict(min(dues_s))
    left_s = timeout_s + (0.0 if runs.has_thread else ASYNC_GRACE_S) - runs.seconds
    if left_s >= 0:
        return Verdict(min(*dues_s, left_s))
    seems_late = (runs.ordinal, runs.since_ns, now_s)
    if before is not None and before.seems_late is not None and before.seems_late[:2] == seems_late[:2]:
        seems_late = before.seems_late
    late = Late(WorkerSilent(timeout_s), runs.ordinal) if now_s - seems_late[2] >= LOOK_AGAIN_S else None
    return Verdict(min(*dues_s, LOOK_AGAIN_S), late, seems_late=seems_late)


def verdict_on_beginning(worker: Worker, begun: int, before: Verdict | None, step_s: float) -> Verdict:
    """Nothing runs in this worker, and it has something to begin, to report, or to throw away. If it does not
    come to that, it is stopped, or its event loop is blocked by what is no item any more.

    `step_s`: how long ago the last look was.
    """
    # One that is recalled still owes us the word that it has come to its limit. It may be stopped just where
    # it has said "started" of the last it had, and not yet looked at the limit.
    if begun >= worker.next_ordinal and not worker.unanswered and not worker.recalled:
        return Verdict(LOOK_AGAIN_S)
    mark = (begun, worker.unanswered)
    stalled_s = before.stalled_s + step_s if before is not None and before.mark == mark else 0.0
    late = Late(WorkerUnresponsive(), None) if stalled_s >= KILL_AFTER_S else None
    ask = late is None and stalled_s >= ASK_AFTER_S
    return Verdict(LOOK_AGAIN_S, late, ask=ask, mark=mark, stalled_s=stalled_s)


def _see(slot: Slot) -> Seen:
    """The words of a slot; idle when it changes meanwhile, as just between two items."""
    seen = Seen(slot.started, slot.since_ns, slot.current)
    return seen if (slot.started, slot.current) == (seen.started, seen.current) else seen._replace(since_ns=0)


def running(context: Context, worker: Worker, held: Sequence[Lease]) -> Running | None:
    """What of the leases that a worker holds runs in it now; None: nothing."""
    now_ns = context.ports.clock.monotonic_ns()
    return what_runs(worker, held, _see(context.slot(worker.worker_id)), now_ns)


def judge(context: Context) -> None:
    """Kill workers whose item has run past its listener's time-out, or that do not begin what they have.

    Only to be called when every pipe was read: a supervisor that was stopped for a minute finds the answers
    of that minute there, and must not kill their workers for being late. Nor one whose pipe was full until we
    read it just now: its slot says what it says only when it has come to run again.
    """
    state, now_s = context.state, context.now_s()
    if state.look_at_s is None or now_s < state.look_at_s:
        return
    step_s = min(now_s - state.looked_s, 2 * LOOK_AGAIN_S)
    state.looked_s = now_s
    before = state.verdicts
    verdicts: dict[int, Verdict] = {}
    for worker in [*state.workers.values()]:
        owes_word = worker.recalled and not state.stopping  # at a stop nobody gets anything again
        if not (worker.unanswered or owes_word) or worker.late is not None:
            continue
        held, last = state.held_by(worker), before.get(worker.worker_id)
        runs = running(context, worker, held)
        if runs is None:
            begun = worker.begun(context.slot(worker.worker_id).started)
            found = verdict_on_beginning(worker, begun, last, step_s)
        else:
            found = verdict(worker, held, runs, last, now_s)
        verdicts[worker.worker_id] = found
        if found.late is not None:
            state.workers.change(worker.worker_id, late=found.late)
            context.outbox.kill(worker.worker_id)
        elif found.ask:
            recall.recall(context, worker)
    state.verdicts = verdicts
    looks_s = [found.look_again_s for found in verdicts.values()]
    state.look_at_s = now_s + min(looks_s) if looks_s else None


def expect(context: Context) -> None:
    """Who was given something in this turn is to be looked at: it may not begin that, or not end it."""
    state = context.state
    if state.given:
        now_s = context.now_s()
        if state.look_at_s is None:
            state.looked_s, state.look_at_s = now_s, now_s + LOOK_AGAIN_S
        state.look_at_s = min(state.look_at_s, now_s + LOOK_AGAIN_S)
