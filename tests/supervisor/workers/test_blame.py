"""Who is charged when a worker ends: the rules that a test of processes cannot time."""

import signal

import pytest

from durable_bus.errors import WorkerDeath, WorkerExited, WorkerKilled, WorkerSilent, WorkerUnresponsive
from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor.entries import ItemLease, Late, Worker
from durable_bus.supervisor.scheduling.leases import Suspect
from durable_bus.supervisor.workers.blame import guilty

SILENT = WorkerSilent(1.0)
SEGFAULT = WorkerKilled(signal.SIGSEGV)
KILLED = WorkerKilled(signal.SIGKILL)
TERMINATED = WorkerKilled(signal.SIGTERM)
EXITED = WorkerExited(3)


def worker(*, is_async: bool, late: Late | None = None) -> Worker:
    settings = ListenerSettings("work", 1.0, 1, 0.0, 1, is_async, None)
    return Worker(1, 100, listeners={"work": settings}, is_async=is_async, late=late)


def suspects(count: int) -> list[Suspect]:
    """They have the ordinals from 5 on."""
    lease = ItemLease(
        lease_id=7,
        worker_id=1,
        listener="work",
        attempt=1,
        alone=False,
        first_ordinal=5,
        item_count=9,
        buffer_seq=1,
        first=0,
    )
    return [(lease, at) for at in range(count)]


@pytest.mark.parametrize("death", [SEGFAULT, KILLED, EXITED])
@pytest.mark.parametrize(("count", "charged"), [(0, []), (1, [0]), (2, []), (3, [])])
def test_the_only_one_is_charged_and_of_several_nobody(
    death: WorkerDeath, count: int, charged: list[int]
) -> None:
    found = guilty(worker(is_async=False), suspects(count), death, 0, stopping=False)
    assert [at for _, at in found] == charged


@pytest.mark.parametrize("death", [SEGFAULT, KILLED, EXITED])
@pytest.mark.parametrize("current", [0, 6])
def test_stopping_charges_nobody(death: WorkerDeath, current: int) -> None:
    assert guilty(worker(is_async=True), suspects(1), death, current, stopping=True) == []


@pytest.mark.parametrize("death", [SEGFAULT, EXITED])
@pytest.mark.parametrize(("current", "charged"), [(6, [0]), (7, [1]), (8, [2]), (4, []), (99, [])])
def test_whose_step_it_was_is_charged_with_what_the_process_did_itself(
    death: WorkerDeath, current: int, charged: list[int]
) -> None:
    found = guilty(worker(is_async=True), suspects(3), death, current, stopping=False)
    assert [at for _, at in found] == charged


@pytest.mark.parametrize("death", [KILLED, TERMINATED])
@pytest.mark.parametrize("count", [2, 3])
def test_a_kill_from_outside_charges_nobody_of_several_whosever_step_it_was(
    death: WorkerDeath, count: int
) -> None:
    assert guilty(worker(is_async=True), suspects(count), death, 6, stopping=False) == []


@pytest.mark.parametrize(("current", "charged"), [(0, []), (6, [0]), (7, [])])
def test_who_is_late_is_charged_only_if_it_was_still_its_step_when_the_kill_came(
    current: int, charged: list[int]
) -> None:
    """Item 0 was late when it was looked at. By the kill its step may be over, and another one's begun."""
    late = Late(SILENT, 5)
    found = guilty(worker(is_async=True, late=late), suspects(2), KILLED, current, stopping=False)
    assert [at for _, at in found] == charged


@pytest.mark.parametrize(("ordinal", "charged"), [(5, [0]), (6, [1]), (4, [])])
def test_a_sync_item_that_is_late_is_charged_alone(ordinal: int, charged: list[int]) -> None:
    late = Late(SILENT, ordinal)
    found = guilty(worker(is_async=False, late=late), suspects(3), KILLED, 0, stopping=False)
    assert [at for _, at in found] == charged


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("current", [0, 6])
def test_who_was_ended_because_nothing_ran_in_it_charges_nobody(count: int, current: int) -> None:
    late = Late(WorkerUnresponsive(), None)
    assert guilty(worker(is_async=True, late=late), suspects(count), KILLED, current, stopping=False) == []
