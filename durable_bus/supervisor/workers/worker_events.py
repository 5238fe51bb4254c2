"""What workers say, and how they end: answers, failures and outcomes on their way into the journal."""

from durable_bus.errors import EngineLost, WorkerDeath, WorkerSilent
from durable_bus.journal.work import Failure
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import ItemLease, Lease, MessageLease, Worker
from durable_bus.supervisor.outcomes import budgets, collector, conversations
from durable_bus.supervisor.ports import WorkerEnded, WorkerSpoke
from durable_bus.supervisor.requests import mailboxes
from durable_bus.supervisor.scheduling import leases, memo, pacing, recall
from durable_bus.supervisor.state import State
from durable_bus.supervisor.workers import workforce
from durable_bus.supervisor.workers.blame import guilty
from durable_bus.wire.engine_errors import is_of_engine
from durable_bus.wire.work import Answers, Lost, Places, Ready

__all__ = ["ended", "spoke"]


def spoke(context: Context, event: WorkerSpoke) -> None:
    """Take in a frame."""
    report, workers = event.frame.header, context.state.workers
    if isinstance(report, Answers):
        _answers(context, event.worker_id, report, event.frame.bodies)
        worker = workers.get(event.worker_id)
        if worker is not None:
            workforce.retire_worn_out(context, worker)
    elif isinstance(report, Lost):
        _lost(context, event.worker_id, report)
    elif isinstance(report, Places):
        if event.worker_id in workers:
            workers.change(event.worker_id, places=report.places)
    elif isinstance(report, Ready):
        worker = workers.get(event.worker_id)
        pid = None if worker is None else worker.pid
        if worker is not None and worker.engine:
            context.outbox.log("engine ready", pid=pid, engine=worker.engine, places=report.places)
        else:
            context.outbox.log("worker ready", pid=pid, listeners=len(report.listeners))
        workforce.ready(context, event.worker_id, report)
        for one in [*workers.values()]:
            workforce.retire_worn_out(context, one)
        mailboxes.give_up(context, context.state.listeners or {})
        context.journal.set_listeners(report.listeners)
    else:
        workforce.failed_import(context, event.worker_id, report.error)
        said = {"traceback": report.traceback} if report.traceback else {}
        _cannot_import(context, report.error, **said)


def _cannot_import(context: Context, error: str, **facts: str) -> None:
    context.journal.set_worker_error(error)
    what = "engine cannot be had" if is_of_engine(error) else "worker cannot import the app"
    context.outbox.log(what, error=error, **facts)


def _answers(context: Context, worker_id: int, answers: Answers, bodies: list[bytes]) -> None:
    worker = context.state.workers.get(worker_id)
    pid = worker.pid if worker else 0
    # An engine that does not say where a batch ran is where it ran, as far as anybody knows.
    place = answers.where or (worker.engine if worker else "") or None
    for spent in answers.spent:
        budgets.spend(context, spent)
    for segment, payloads in zip(answers.segments, bodies, strict=False):
        lease = leases.answered(context, segment.dispatch, segment.first, segment.count)
        if lease is not None:
            _note_pace(context.state, lease.listener, segment.total_us / segment.count)
            if segment.success:
                pacing.succeeded(context.state, lease.listener)
        collector.record(context, segment, payloads, pid, place)
        memo.remember(context, lease, segment)
    for failed in answers.failed:
        lease = context.state.leases.get(failed.dispatch)
        if lease is None or lease.worker_id != worker_id:
            continue  # somebody else has it by now
        position = failed.index - lease.first
        if lease.answered >> position & 1:
            continue  # answered before: the first outcome stands, and a failure is not even one
        leases.answered(context, failed.dispatch, failed.index, 1)
        failure = Failure(
            failed.kind,
            failed.message,
            failed.traceback,
            answer=failed.answer,
            final=failed.final,
            after_s=failed.after_s,
        )
        if failed.after_s is not None and failed.limit:
            pacing.rest(context, failed.limit, failed.after_s)
        elif failed.kind == "timeout":
            pacing.timed_out(context, lease.listener)
        _attempt_failed(context, lease, position, failure, (pid, place), failed.durations)
    for handled, body in zip(answers.outcomes, bodies[len(answers.segments) :], strict=True):
        lease = leases.answered(context, handled.dispatch, handled.index, 1)
        if isinstance(lease, MessageLease):
            conversations.message_outcome(context, lease.message_seq, handled.outcome, body)
        elif isinstance(lease, ItemLease):
            conversations.item_outcome(context, lease, handled.index, handled.outcome, body)
    worker = context.state.workers.get(worker_id)
    if answers.discarded is not None and worker is not None:
        recall.discarded(context, worker, *answers.discarded)


def _lost(context: Context, worker_id: int, told: Lost) -> None:
    """An engine brings nothing back of these. Only an item that was alone in it is charged: whoever ran
    beside it may have ended the process of both.
    """
    worker = context.state.workers.get(worker_id)
    if worker is None:
        return
    ran = worker.pid, worker.engine
    suspects: list[leases.Suspect] = []
    items = 0
    for dispatch in told.dispatches:
        lease = context.state.leases.get(dispatch)
        if not isinstance(lease, ItemLease) or lease.worker_id != worker_id:
            continue
        items += lease.open_count
        found = leases.lost(context, lease, suspected=told.how != "returned")
        if told.how == "late":
            pacing.timed_out(context, lease.listener)
        if lease.alone and len(found) == 1:
            ((_, position),) = found
            _attempt_failed(context, lease, position, _why_lost(worker, lease, told), ran)
        else:
            suspects += found
    if items:
        context.outbox.log(f"batches {told.how}", engine=worker.engine, items=items, reason=told.why)
    leases.quarantine(context, suspects)


def _why_lost(worker: Worker, lease: ItemLease, told: Lost) -> Failure:
    settings = worker.settings(lease.listener)
    death: WorkerDeath = EngineLost(told.why)
    if told.how == "late" and settings is not None and settings.timeout_s is not None:
        death = WorkerSilent(settings.timeout_s)
    return Failure(death.kind, str(death))


def _note_pace(state: State, listener: str, item_us: float) -> None:
    state.item_us = {**state.item_us, listener: (state.item_us.get(listener, item_us) + item_us) / 2}


def ended(context: Context, event: WorkerEnded) -> None:
    """What a worker had not answered is given back, and somebody may be charged, unless we are stopping."""
    worker = context.state.workers.get(event.worker_id)
    if worker is None:
        return
    death = event.death if worker.late is None else worker.late.death
    suspects = leases.worker_gone(context, worker, event.started)
    context.counting.worker_ended(death)
    retired = {"retired": True} if worker.leaving and worker.late is None and not suspects else {}
    context.outbox.log("worker ended", pid=worker.pid, reason=str(death), suspects=len(suspects), **retired)
    not_importable_because = workforce.died_in_boot(context, worker, death)
    if not_importable_because is not None:
        _cannot_import(context, not_importable_because)
    if worker.late is not None:
        for lease, _ in suspects:
            pacing.timed_out(context, lease.listener)
    charged = guilty(worker, suspects, death, event.current, stopping=context.state.stopping)
    ran = worker.pid, worker.engine or None
    for lease, position in charged:
        _attempt_failed(context, lease, position, Failure(death.kind, str(death)), ran)
    leases.quarantine(context, [suspect for suspect in suspects if suspect not in charged])


def _attempt_failed(
    context: Context,
    lease: Lease,
    position: int,
    failure: Failure,
    ran: tuple[int, str | None],
    durations: str = "",
) -> None:
    """`ran`: in which worker, and where, if that did not run it itself."""
    worker_pid, place = ran
    if isinstance(lease, MessageLease):
        conversations.message_failed(context, lease.message_seq, lease.attempt, failure, place)
    elif isinstance(lease, ItemLease):
        index = lease.first + position
        collector.attempt_failed(context, lease, index, failure, worker_pid, durations, place)
