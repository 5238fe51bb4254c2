"""Planted bugs in what is done beside an engine: each breaks a promise, and the simulation finds it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from durable_bus.journal.work import WorkTable
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import ItemLease, Lease, OpenBuffer, Worker
from durable_bus.supervisor.ports import WorkerEnded
from durable_bus.supervisor.scheduling import leases, recall, timeouts, turns
from durable_bus.supervisor.scheduling.dispatcher import _Round
from durable_bus.supervisor.scheduling.leases import Suspect
from durable_bus.supervisor.state import State
from durable_bus.supervisor.workers import worker_events
from durable_bus.wire.parts import Failed
from durable_bus.wire.work import Answers, Lost
from simulation.equals import Equality
from simulation.faults import Engine
from simulation.planting import is_found

AT_ENGINE: dict[str, Any] = {
    "equality": Equality.none(),
    "limits": {},
    "kill_worker": 0.04,
    "freeze_worker": 0.02,
    "control": 0.08,
    "engine": Engine(
        places=4,
        neighbours="some",
        refuse=0.1,
        submit=0.05,
        gone=0.05,
        late_reply=0.5,
        slow=0.1,
        goes_on=1.0,
    ),
}
"""Schedules in which there is much that these bugs are about."""
CALM: dict[str, Any] = {
    **AT_ENGINE,
    "engine": Engine(),
    "kill_worker": 0.0,
    "freeze_worker": 0.0,
    "control": 0.0,
    "talk": 0.4,
    "mailboxes": 2,
}
"""Schedules in which hardly anything is given back for other reasons."""
FIRST_SEED = {
    "blame_who_was_not_alone": 19,
    "blame_for_the_silence_of_an_engine_process": 13,
    "blame_whoever_an_engine_process_ends_with": 3,
    "count_a_late_reply_as_another_result": 23,
    "judge_an_engine_process_by_its_items": 14,
    "never_miss_an_engine_process": 13,
    "take_a_late_failure_for_one_of_this_attempt": 111,
    "take_messages_for_an_idle_engine": 3,
}
"""Those that need a process stopped for long, or a reply that comes late, begin shortly before one."""


def blame_who_was_not_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of one item says enough."""

    def lost(context: Context, worker_id: int, told: Lost) -> None:
        leases_of, table = context.state.leases, context.state.leases
        for dispatch in told.dispatches:
            lease = leases_of.get(dispatch)
            if isinstance(lease, ItemLease) and lease.item_count == 1:
                table[dispatch] = _alone(lease)
        take_in(context, worker_id, told)

    take_in = worker_events._lost
    monkeypatch.setattr(worker_events, "_lost", lost)


def _alone(lease: ItemLease) -> ItemLease:
    fields = {name: getattr(lease, name) for name in lease.__struct_fields__}
    return ItemLease(**{**fields, "alone": True})


def blame_whoever_an_engine_process_ends_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it held."""

    def guilty(worker: Worker, suspects: list[Suspect], *seen: Any, stopping: bool) -> list[Suspect]:
        return (
            suspects if worker.places and not stopping else find(worker, suspects, *seen, stopping=stopping)
        )

    find = worker_events.guilty
    monkeypatch.setattr(worker_events, "guilty", guilty)


def blame_for_the_silence_of_an_engine_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(context: Context, event: WorkerEnded) -> None:
        worker = context.state.workers.get(event.worker_id)
        if worker is not None and worker.places and worker.late is not None:
            context.state.workers.change(event.worker_id, late=None)
        end(context, event)

    end = worker_events.ended
    monkeypatch.setattr(worker_events, "ended", ended)


def charge_what_an_engine_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = leases.lost
    monkeypatch.setattr(
        leases, "lost", lambda context, lease, *, suspected: lost(context, lease, suspected=True)
    )


def forget_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dispatch ends, and its items are with nobody."""

    def lost(context: Context, lease: ItemLease, *, suspected: bool) -> list[Suspect]:
        end(context, lease, suspected=True)
        return []

    end = leases.lost
    monkeypatch.setattr(leases, "lost", lost)


def forget_what_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(context: Context, lease: ItemLease, *, suspected: bool) -> list[Suspect]:
        suspects = end(context, lease, suspected=True)
        return suspects if suspected else []

    end = leases.lost
    monkeypatch.setattr(leases, "lost", lost)


def hold_on_to_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its items wait again, and the dispatch has not ended for its engine."""

    def lost(context: Context, lease: ItemLease, *, suspected: bool) -> list[Suspect]:
        worker = context.state.workers[lease.worker_id]
        suspects = end(context, lease, suspected=suspected)
        context.state.workers.change(worker.worker_id, held=worker.held)
        return suspects

    end = leases.lost
    monkeypatch.setattr(leases, "lost", lost)
    monkeypatch.setattr(
        State,
        "held_by",
        lambda self, worker: [self.leases[one] for one in worker.held if self.leases.get(one) is not None],
    )


def count_a_late_reply_as_another_result(monkeypatch: pytest.MonkeyPatch) -> None:
    record_results = WorkTable.record_results

    def counting(self: WorkTable, **facts: Any) -> int:
        recorded = record_results(self, **facts)
        return recorded or facts["item_count"]

    monkeypatch.setattr(WorkTable, "record_results", counting)


def take_a_late_failure_for_one_of_this_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """By item, and not by dispatch."""

    def answers(context: Context, worker_id: int, told: Answers, bodies: list[bytes]) -> None:
        failed = [replace(one, dispatch=now_of(context, one)) for one in told.failed]
        take_in(context, worker_id, replace(told, failed=failed), bodies)

    def now_of(context: Context, failed: Failed) -> int:
        before = ended.get(failed.dispatch)
        for lease in context.state.leases.values():
            is_its = isinstance(lease, ItemLease) and before and lease.buffer_seq == before.buffer_seq
            if is_its and lease.first <= failed.index < lease.first + lease.item_count:
                return lease.lease_id
        return failed.dispatch

    def lost(context: Context, lease: ItemLease, *, suspected: bool) -> list[Suspect]:
        ended[lease.lease_id] = lease
        return end(context, lease, suspected=suspected)

    ended: dict[int, ItemLease] = {}
    take_in, end = worker_events._answers, leases.lost
    monkeypatch.setattr(worker_events, "_answers", answers)
    monkeypatch.setattr(leases, "lost", lost)


def know_no_places(monkeypatch: pytest.MonkeyPatch) -> None:
    def most(self: _Round, worker: Worker, buffer: OpenBuffer, concurrency: int) -> int:
        return count(self, replace(worker, held=worker.held[:1]), buffer, concurrency)

    count = _Round._most
    monkeypatch.setattr(_Round, "_most", most)


def hand_out_beside_what_must_be_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def give(state: State, worker: Worker, lease: Lease) -> None:
        hand(state, worker, lease)
        if worker.places:
            state.workers.change(worker.worker_id, exclusive=False)

    hand = leases.give
    monkeypatch.setattr(leases, "give", give)


def hand_out_what_must_be_alone_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def most_alone(self: _Round, worker: Worker, seq: int, concurrency: int) -> int:
        return count(self, replace(worker, unanswered=0), seq, concurrency)

    count = _Round._most_alone
    monkeypatch.setattr(_Round, "_most_alone", most_alone)


def keep_no_engine_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """What must be alone waits until the engine happens to hold nothing."""
    monkeypatch.setattr(turns, "reserved", lambda workers, buffers, alone_listeners: None)


def send_messages_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def freest(workers: Iterable[Worker], listener: str, *, alone: bool) -> Worker | None:
        return find([replace(one, engine="") for one in workers], listener, alone=alone)

    find = turns.freest
    monkeypatch.setattr(turns, "freest", freest)


def take_messages_for_an_idle_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the worker beside it, which gets them again."""

    def loads(context: Context) -> Any:
        table = context.state.workers
        beside = [worker.worker_id for worker in table.values() if not worker.gets_items]
        for worker_id in beside:
            table.change(worker_id, gets_items=True)
        found = look(context)
        for worker_id in beside:
            table.change(worker_id, gets_items=False)
        return found

    look = recall._loads
    monkeypatch.setattr(recall, "_loads", loads)


def send_items_to_the_worker_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Round, "_workers", lambda self: [*self._state.workers.values()])


def never_miss_an_engine_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is stopped for good is waited for."""
    monkeypatch.setattr(timeouts, "ENGINE_SILENT_S", float("inf"))


def judge_an_engine_process_by_its_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed when it has not come round for the time-out of an item."""
    monkeypatch.setattr(timeouts, "ENGINE_SILENT_S", 0.1)


@pytest.mark.parametrize(
    "plant",
    [
        blame_who_was_not_alone,
        blame_whoever_an_engine_process_ends_with,
        blame_for_the_silence_of_an_engine_process,
        charge_what_an_engine_returns,
        forget_what_is_lost,
        forget_what_is_returned,
        hold_on_to_what_is_lost,
        count_a_late_reply_as_another_result,
        take_a_late_failure_for_one_of_this_attempt,
        know_no_places,
        hand_out_beside_what_must_be_alone,
        hand_out_what_must_be_alone_beside_others,
        keep_no_engine_free,
        send_messages_to_the_engine,
        take_messages_for_an_idle_engine,
        send_items_to_the_worker_beside_it,
        never_miss_an_engine_process,
        judge_an_engine_process_by_its_items,
    ],
)
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    profile = CALM if plant is take_messages_for_an_idle_engine else AT_ENGINE
    is_found(folder, FIRST_SEED.get(plant.__name__, 0), **profile)
