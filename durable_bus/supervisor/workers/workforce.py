"""The workers as the supervisor manages them: how many there should be, which code they run, who is replaced
when.
"""

from msgspec.structs import replace

from durable_bus.errors import BusNotImportable, EngineError, WorkerDeath, said
from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import Worker
from durable_bus.supervisor.scheduling import pacing, recall
from durable_bus.supervisor.state import State
from durable_bus.wire.engine_errors import engine_says
from durable_bus.wire.work import Ready

__all__ = ["BOOT_TIMEOUT_S", "Deferred", "is_settled", "require_app"]

BOOT_TIMEOUT_S = 300.0
"""A worker that has not reported its listeners after this long is killed: its import hangs."""
_AT_ONCE = 2
"""After so many deaths in boot, in a row, spawning waits, and the app counts as not importable."""
_BACKOFF_FIRST_S = 0.5
_BACKOFF_MAX_S = 30.0
_BACKOFF_DOUBLINGS_MAX = 10


class Deferred(Exception):
    """It cannot be answered yet: no worker has said which listeners the app has."""


def fill(context: Context) -> None:
    """Spawn what is missing, unless workers keep dying in boot, or there was no room for one more, and the
    next try is not due yet. Raises OSError when there is no room before any worker has been ready.

    Outside of a commit: what it has done stays.
    """
    state = context.state
    if context.now_s() < state.spawn_at_s:
        return
    engine, pool = context.config.engine, context.ports.pool
    for is_engine, missing in zip((True, False), _missing(context), strict=True):
        for _ in range(missing):
            try:
                worker_id = pool.spawn(engine=is_engine)
            except OSError as error:
                if state.listeners is None:
                    raise  # who has just started us is to know
                again_in_s = _back_off(state, context.now_s())
                state.commit()
                context.ports.log("cannot start a worker", reason=said(error), again_in_s=again_in_s)
                return
            state.workers[worker_id] = Worker(
                worker_id,
                pool.pid(worker_id),
                state.generation,
                booting_since_s=context.now_s(),
                engine=engine.name if engine is not None and is_engine else "",
                gets_items=engine is None or is_engine,
            )
            state.commit()


def _missing(context: Context) -> tuple[int, int]:
    """How many engine processes and workers there should be beside those that run the newest code, or are
    about to, and are to stay.
    """
    newest = context.state.generation
    to_stay = [
        worker
        for worker in context.state.workers.values()
        if worker.retired_at is None and worker.generation == newest
    ]
    engines = sum(bool(worker.engine) for worker in to_stay)
    engines_wanted = context.config.engine is not None
    return max(0, engines_wanted - engines), max(0, context.config.workers - (len(to_stay) - engines))


def next_due_s(context: Context) -> float | None:
    """Monotonic time, s, when `fill` or `kill_hung` should be called again; None: nothing is due."""
    booting = [worker.booting_since_s for worker in context.state.workers.values()]
    due = [since_s + BOOT_TIMEOUT_S for since_s in booting if since_s is not None]
    if any(_missing(context)):
        due.append(context.state.spawn_at_s)
    return min(due, default=None)


def kill_hung(context: Context) -> None:
    """Kill workers that have not reported their listeners for too long."""
    now_s = context.now_s()
    for worker in [*context.state.workers.values()]:
        if worker.booting_since_s is not None and now_s - worker.booting_since_s > BOOT_TIMEOUT_S:
            context.state.workers.change(worker.worker_id, hangs_in_boot=True)
            context.outbox.kill(worker.worker_id)


def ready(context: Context, worker_id: int, report: Ready) -> None:
    """A worker has imported the app. Those that run older code get nothing more from now on."""
    state = context.state
    _begin_a_new_row(context)
    worker = state.workers.get(worker_id)
    if worker is None:
        return
    worker, listeners = replace(worker, places=report.places), report.listeners
    is_async = report.places > 0 or any(settings.is_async for settings in listeners.values())
    state.workers.change(
        worker_id,
        booting_since_s=None,
        hangs_in_boot=False,
        listeners=listeners,
        is_async=is_async,
        places=report.places,
    )
    if worker.generation != state.generation:
        if state.listeners is None:
            # A reload came while all were booting: until the new code is there.
            state.listeners, state.forms = listeners, report.forms
            pacing.declare(context, report.limits)
        return
    if worker.engine:
        state.engine_was_ready, state.engine_error = True, None
    else:
        state.import_error = None
    state.forms = report.forms
    state.readies += 1
    pacing.declare(context, report.limits)
    if state.listeners != listeners:
        state.listeners = listeners
        state.item_us, state.last_batch = {}, {}  # new code may have another pace
    for other in [*state.workers.values()]:
        if other.generation < state.generation:
            recall.let_go(context, other)


def failed_import(context: Context, worker_id: int, error: str) -> None:
    """A worker has reported why it cannot import the app, or the engine process why there is no engine."""
    worker = context.state.workers.get(worker_id)
    if worker is not None:
        context.state.workers.change(worker_id, has_said_why=True)
        _note_error(context.state, worker, error)


def _note_error(state: State, worker: Worker, error: str) -> None:
    if worker.engine:
        state.engine_error = error
    elif worker.generation == state.generation:
        state.import_error = error


def died_in_boot(context: Context, worker: Worker, death: WorkerDeath) -> str | None:
    """A worker has ended. In boot, the first two deaths in a row are replaced at once, later ones with
    backoff; and from the third on the app cannot be imported, also when no worker could say why: whoever
    waits for its listeners is told. Then this is the reason, else None.
    """
    state = context.state
    if worker.booting_since_s is None or worker.generation != state.generation:
        return None
    state.deaths_in_boot += 1
    if state.deaths_in_boot <= _AT_ONCE:
        return None
    reason = None
    if not worker.has_said_why:
        how = str(death).removeprefix("worker ")
        reason = f"a worker died while it imported the app: {how}"
        if worker.hangs_in_boot:
            reason = f"a worker had not imported the app after {BOOT_TIMEOUT_S:g} s"
        if worker.engine:
            reason = engine_says(worker.engine, f"its process died as it started: {how}")
        _note_error(state, worker, reason)
    now_s = context.now_s()
    if now_s >= state.spawn_at_s:  # else it belongs to those who were spawned together, and died so
        _back_off(state, now_s)
    return reason


def _back_off(state: State, now_s: float) -> float:
    """Spawn nobody for a while, which doubles each time; for how long, in seconds."""
    doublings = min(state.backoffs, _BACKOFF_DOUBLINGS_MAX)  # after a night of them a float could not hold it
    for_s = min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2.0**doublings)
    state.spawn_at_s = now_s + for_s
    state.backoffs += 1
    return for_s


def reload(context: Context) -> None:
    """New workers import the app anew; the old ones stay until one of the new has reported its listeners."""
    context.state.generation += 1
    context.ports.pool.end_started_ahead()
    _begin_a_new_row(context)


def _begin_a_new_row(context: Context) -> None:
    """Of deaths in boot: the next one is the first again."""
    context.state.deaths_in_boot = 0
    context.state.backoffs = 0
    context.state.spawn_at_s = 0.0


def retire_worn_out(context: Context, worker: Worker) -> None:
    """A worker that was given as many items as it may run is replaced: a fresh one boots while it answers
    them. It leaves only when that one is there: if the app cannot be imported any more, it works on.
    """
    if context.room(worker):
        return
    if worker.retired_at is None:
        worker = context.state.workers.change(worker.worker_id, retired_at=context.state.readies)
    is_replaced = worker.retired_at is not None and context.state.readies > worker.retired_at
    if not worker.unanswered and is_replaced:
        recall.let_go(context, worker)


def require_app(context: Context) -> dict[str, ListenerSettings]:
    """The newest settings. Raises Deferred before any worker has tried, BusNotImportable when none could, and
    EngineError when the engine was never there.
    """
    if not is_settled(context):
        raise Deferred
    if context.state.listeners is None:
        raise BusNotImportable(context.state.import_error or "")
    if context.config.engine is not None and not context.state.engine_was_ready:
        raise EngineError(context.state.engine_error or "")
    return context.state.listeners


def is_settled(context: Context) -> bool:
    """It is known whether the app can be imported, and whether the engine can be reached."""
    state = context.state
    of_engine = context.config.engine is None or state.engine_was_ready or state.engine_error is not None
    return of_engine and (state.listeners is not None or state.import_error is not None)
