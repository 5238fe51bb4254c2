"""Who is late: with an item, or with beginning what it was given."""

from typing import Any

import pytest

from durable_bus.errors import WorkerSilent, WorkerUnresponsive
from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor.entries import ItemLease, Lease, MessageLease, Worker
from durable_bus.supervisor.scheduling.timeouts import (
    ASK_AFTER_S,
    ASYNC_GRACE_S,
    ENGINE_SILENT_S,
    KILL_AFTER_S,
    LOOK_AGAIN_S,
    Running,
    Seen,
    Verdict,
    verdict,
    verdict_on_beginning,
    what_runs,
)

NOW_S = 100.0
TIMEOUT_S = 5.0


def worker(*, is_async: bool = False, timeout_s: float | None = TIMEOUT_S, **fields: Any) -> Worker:
    settings = ListenerSettings("work", timeout_s, 1, 0.0, 1, is_async, None)
    return Worker(1, 100, listeners={"work": settings}, is_async=is_async, **fields)


def items(first_ordinal: int = 0, count: int = 3, answered: int = 0, listener: str = "work") -> ItemLease:
    return ItemLease(
        lease_id=7,
        worker_id=1,
        listener=listener,
        attempt=1,
        alone=False,
        first_ordinal=first_ordinal,
        item_count=count,
        answered=answered,
        buffer_seq=1,
        first=40,
    )


def message(first_ordinal: int) -> MessageLease:
    return MessageLease(
        lease_id=-3,
        worker_id=1,
        listener="work",
        attempt=1,
        alone=False,
        first_ordinal=first_ordinal,
        message_seq=3,
    )


# ---- what runs


@pytest.mark.parametrize(
    ("is_async", "held", "seen", "ordinal", "has_thread"),
    [
        (False, [], Seen(1, 1, 0), None, None),
        (False, [items()], Seen(0, 1, 0), None, None),
        (False, [items()], Seen(1, 0, 0), None, None),
        (False, [items()], Seen(1, 1, 0), 0, True),
        (False, [items()], Seen(3, 1, 0), 2, True),
        (False, [items(answered=0b1)], Seen(1, 1, 0), None, None),
        (False, [items(answered=0b1)], Seen(2, 1, 0), 1, True),
        (False, [items(), message(3)], Seen(4, 1, 0), 3, True),
        (False, [items(5), message(8)], Seen(9, 1, 0), 8, True),
        (True, [items()], Seen(3, 1, 2), 1, True),
        (True, [items()], Seen(3, 1, 0), 0, False),
        (True, [items(answered=0b1)], Seen(3, 1, 0), 1, False),
        (True, [items(answered=0b111)], Seen(3, 1, 0), None, None),
        (True, [items()], Seen(0, 1, 0), None, None),
        (True, [items(answered=0b10)], Seen(3, 1, 2), 0, False),
    ],
)
def test_what_runs_is_what_the_slot_says_and_was_not_answered(
    is_async: bool, held: list[Lease], seen: Seen, ordinal: int | None, has_thread: bool | None
) -> None:
    found = what_runs(worker(is_async=is_async), held, seen, 1_000_000_001)
    if found is None:
        assert ordinal is None
    else:
        assert (found.ordinal, found.has_thread, found.seconds) == (ordinal, has_thread, 1.0)


# ---- with an item


def run(seconds: float, *, has_thread: bool = True, ordinal: int = 0, since_ns: int = 7) -> Running:
    return Running(items(), ordinal, seconds, has_thread, since_ns)


@pytest.mark.parametrize(
    ("seconds", "has_thread", "late_in_s"),
    [
        (0.0, True, TIMEOUT_S),
        (4.0, True, 1.0),
        (4.999, True, 0.001),
        (5.0, False, ASYNC_GRACE_S),
        (14.0, False, 1.0),
    ],
)
def test_an_item_within_its_time_out_is_looked_at_when_that_ends(
    seconds: float, has_thread: bool, late_in_s: float
) -> None:
    found = verdict(worker(), [items()], run(seconds, has_thread=has_thread), None, NOW_S)
    assert (found.late, found.seems_late) == (None, None)
    assert found.look_again_s == pytest.approx(min(late_in_s, KILL_AFTER_S, TIMEOUT_S))


@pytest.mark.parametrize(("seconds", "has_thread"), [(5.001, True), (100.0, True), (15.001, False)])
def test_who_is_past_its_time_out_is_looked_at_twice_before_it_is_late(
    seconds: float, has_thread: bool
) -> None:
    runs = run(seconds, has_thread=has_thread)
    first = verdict(worker(), [items()], runs, None, NOW_S)
    assert (first.late, first.seems_late, first.look_again_s) == (None, (0, 7, NOW_S), LOOK_AGAIN_S)
    soon = verdict(worker(), [items()], runs, first, NOW_S + LOOK_AGAIN_S / 2)
    assert (soon.late, soon.seems_late) == (None, (0, 7, NOW_S))
    then = verdict(worker(), [items()], runs, soon, NOW_S + LOOK_AGAIN_S)
    assert then.late is not None
    assert isinstance(then.late.death, WorkerSilent)
    assert then.late.ordinal == 0


def test_who_has_gone_on_to_another_item_meanwhile_is_not_late() -> None:
    first = verdict(worker(), [items()], run(9.0), None, NOW_S)
    then = verdict(worker(), [items()], run(9.0, ordinal=1), first, NOW_S + 10)
    assert (then.late, then.seems_late) == (None, (1, 7, NOW_S + 10))


def test_who_had_only_said_that_it_begins_when_it_seemed_late_is_not() -> None:
    """It had waited a minute for its pipe to be read, and its slot said since when the item before ran. The
    supervisor was stopped as it had read the pipe, and the next look was the second one of the same item.
    """
    first = verdict(worker(), [items()], run(9.0), None, NOW_S)
    then = verdict(worker(), [items()], run(60.0, since_ns=8), first, NOW_S + 60)
    assert (then.late, then.seems_late) == (None, (0, 8, NOW_S + 60))


@pytest.mark.parametrize("seconds", [0.0, 1e6])
def test_without_a_time_out_nobody_is_late(seconds: float) -> None:
    found = verdict(worker(timeout_s=None), [items()], run(seconds), None, NOW_S)
    assert (found.late, found.look_again_s) == (None, KILL_AFTER_S)


def test_a_listener_that_the_worker_does_not_have_has_no_time_out() -> None:
    runs = Running(items(listener="gone"), 0, 1e6, has_thread=True)
    assert verdict(worker(), [runs.lease], runs, None, NOW_S).late is None


# ---- an engine process


@pytest.mark.parametrize(
    ("seconds", "late"), [(0.0, False), (TIMEOUT_S + 1, False), (ENGINE_SILENT_S, False), (30.001, True)]
)
@pytest.mark.parametrize("timeout_s", [None, 0.1, TIMEOUT_S, 3600.0])
def test_an_engine_process_is_late_when_it_does_not_come_round_and_no_item_is(
    timeout_s: float | None, seconds: float, late: bool
) -> None:
    one = worker(timeout_s=timeout_s, engine="dask", places=4)
    found = verdict(one, [items()], run(seconds, has_thread=False), None, NOW_S)
    assert (found.look_again_s, found.ask, found.seems_late) == (KILL_AFTER_S, False, None)
    assert (found.late is not None) == late
    if found.late is not None:
        assert isinstance(found.late.death, WorkerUnresponsive)
        assert found.late.ordinal is None


@pytest.mark.parametrize(("started", "ordinal"), [(0, None), (1, 0), (3, 0), (9, 0)])
def test_in_an_engine_process_runs_what_it_has_taken_and_not_answered(
    started: int, ordinal: int | None
) -> None:
    one = worker(engine="dask", places=4)
    found = what_runs(one, [items(), items(3), items(6)], Seen(started, 1, 0), 1_000_000_001)
    assert (None if found is None else found.ordinal) == ordinal
    assert found is None or not found.has_thread


# ---- with beginning


@pytest.mark.parametrize(
    ("stalled_s", "ask", "late"),
    [
        (0.0, False, False),
        (ASK_AFTER_S / 2, False, False),
        (ASK_AFTER_S, True, False),
        (KILL_AFTER_S - 0.1, True, False),
        (KILL_AFTER_S, False, True),
        (KILL_AFTER_S + 60, False, True),
    ],
)
def test_who_does_not_begin_is_asked_and_then_ended_and_nobody_is_charged(
    stalled_s: float, ask: bool, late: bool
) -> None:
    one = worker(unanswered=2, next_ordinal=5)
    before = Verdict(1.0, mark=(3, 2))
    found = verdict_on_beginning(one, 3, before, stalled_s)
    assert (found.ask, found.late is not None, found.look_again_s) == (ask, late, LOOK_AGAIN_S)
    if found.late is not None:
        assert isinstance(found.late.death, WorkerUnresponsive)
        assert found.late.ordinal is None


@pytest.mark.parametrize(("begun", "unanswered"), [(4, 2), (3, 1)])
def test_who_does_anything_is_given_time_again(begun: int, unanswered: int) -> None:
    before = Verdict(1.0, mark=(3, 2), stalled_s=100.0)
    found = verdict_on_beginning(worker(unanswered=unanswered, next_ordinal=5), begun, before, 0.5)
    assert (found.ask, found.late) == (False, None)
    assert (found.mark, found.stalled_s) == ((begun, unanswered), 0.0)


def test_time_counts_up_only_while_nothing_moves() -> None:
    one, found = worker(unanswered=2, next_ordinal=5), None
    for stalled_s in (0.0, 0.25, 0.5, 0.75):
        found = verdict_on_beginning(one, 3, found, 0.25)
        assert found.stalled_s == stalled_s


@pytest.mark.parametrize(("begun", "unanswered", "judged"), [(5, 0, False), (4, 0, True), (5, 1, True)])
def test_only_who_has_something_to_begin_or_to_report_is_judged(
    begun: int, unanswered: int, judged: bool
) -> None:
    found = verdict_on_beginning(worker(unanswered=unanswered, next_ordinal=5), begun, None, 1e6)
    assert (found.mark is not None) == judged
    assert found.late is None, "the first look only notes how far it has come"


def test_a_recalled_worker_that_does_not_say_it_has_come_to_its_limit_is_judged() -> None:
    """It was stopped just after it said "started" of the last that it had, all of which was given back."""
    found = verdict_on_beginning(worker(unanswered=0, next_ordinal=5, limit=0), 5, None, 1e6)
    assert found.mark is not None
    later = verdict_on_beginning(worker(unanswered=0, next_ordinal=5, limit=0), 5, found, KILL_AFTER_S)
    assert later.late is not None
