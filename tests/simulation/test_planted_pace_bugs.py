"""Planted bugs in what may start when: each breaks a promise, and the simulation finds it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from durable_bus.journal.pace import PaceTable
from durable_bus.payloads import rates
from durable_bus.payloads.settings import LimitSettings
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import Budget, OpenBuffer
from durable_bus.supervisor.loop import Supervisor
from durable_bus.supervisor.outcomes import budgets, collector, conversations
from durable_bus.supervisor.scheduling import dispatcher, limits, pacing, turns
from durable_bus.supervisor.scheduling.limits import Held, Limit
from durable_bus.supervisor.state import State
from simulation.equals import Equality
from simulation.planting import change_statement, is_found

PACED: dict[str, Any] = {
    "equality": Equality.none(),
    "terms": 0.8,
    "spends": 1.0,
    "talk": 0.3,
    "kill_worker": 0.04,
    "crash": 0.02,
    "set_clock": 0.0,
    "limits": {
        "steady": LimitSettings("steady", "10/s", None),
        "few": LimitSettings("few", None, 2, adaptive=True),
    },
}
"""Schedules in which there is much that these bugs are about."""
FIRST_SEED = {
    "begin_at_any_time": 4,
    "charge_limits_when_work_is_handed_out": 104,
    "count_as_running_what_has_begun": 5,
    "count_twice_what_is_said_twice": 23,
    "forget_limits_at_a_restart": 169,
    "forget_rests": 3,
    "forget_rests_at_a_restart": 47,
    "give_buffers_of_handlers_no_budget": 9,
    "hand_out_a_batch_of_what_has_a_budget": 11,
    "keep_a_worker_free_for_what_rests": 49,
    "know_no_priority": 33,
    "look_at_no_deadline": 3,
    "never_have_enough": 4,
    "pause_only_who_was_given_the_budget": 19,
    "sleep_through_deadlines": 3,
    "spend_without_an_end": 9,
    "wake_nobody_when_tokens_come": 3,
    "write_limits_when_more_is_in_hand": 144,
}
"""Those that need something at the right moment begin with a schedule that has it, or shortly before."""


def fill_buckets_with_all_that_the_contract_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they have room for the bugs of a single crash."""
    for module in (rates, pacing):
        monkeypatch.setattr(module, "burst", lambda per_s: max(1.0, per_s))


def forget_limits_at_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their buckets are full again."""

    def restarted(limit: Limit, tokens: float, not_begun: int, elapsed_s: float, now_s: float) -> Limit:
        return replace(limit, tokens=limit.per_s or 1.0, at_s=now_s)

    fill_buckets_with_all_that_the_contract_allows(monkeypatch)
    monkeypatch.setattr(limits, "restarted", restarted)


def write_limits_when_more_is_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was: what begins in the place of what has begun was not written."""

    def is_covered(self: Limit, held: Held) -> bool:
        return held.in_hand == self.written[0] and held.not_begun <= self.written[1]

    fill_buckets_with_all_that_the_contract_allows(monkeypatch)
    monkeypatch.setattr(Limit, "is_covered", is_covered)


def charge_limits_when_work_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not when it begins."""
    take, held_of = pacing.Gates.take, pacing._held

    def charging(self: pacing.Gates, listener: str, count: int, buffer_seq: int | None = None) -> None:
        take(self, listener, count, buffer_seq)
        for name in pacing.names_for(self._state, listener):
            self._state.limits[name] = limits.charged(self._state.limits[name], count, self._now_s)

    def held(state: State) -> dict[str, Held]:
        return {name: one._replace(not_begun=0) for name, one in held_of(state).items()}

    fill_buckets_with_all_that_the_contract_allows(monkeypatch)
    monkeypatch.setattr(pacing.Gates, "take", charging)
    monkeypatch.setattr(pacing, "look", lambda context: None)
    monkeypatch.setattr(pacing, "_held", held)


def count_as_running_what_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    free = limits.free

    def begun_only(limit: Limit, held: Held, now_s: float) -> int | None:
        return free(limit, held._replace(in_hand=held.in_hand - held.not_begun), now_s)

    monkeypatch.setattr(limits, "free", begun_only)


def forget_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "rested", lambda limit, seconds, now_s, now_ms: limit)


def forget_rests_at_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    load = pacing.load

    def without(context: Context) -> None:
        load(context)
        for name in context.state.limits:
            context.state.limits.change(name, rests_until_s=0.0)

    monkeypatch.setattr(pacing, "load", without)


def charge_an_attempt_for_a_return(monkeypatch: pytest.MonkeyPatch) -> None:
    change_statement(monkeypatch, "failures_of", ("'timeout')", "'timeout', 'retry_after')"))


def count_twice_what_is_said_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    spend = PaceTable.spend_on_item

    def again(
        self: PaceTable, dispatch_id: int, index: int, number: int, amounts: dict[str, float]
    ) -> tuple[int | None, dict[str, float]]:
        return spend(self, dispatch_id, index, number, amounts)[0], amounts

    monkeypatch.setattr(PaceTable, "spend_on_item", again)


def forget_what_messages_spend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PaceTable, "spend_on_message", lambda self, *facts: {})


def spend_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is paused."""
    monkeypatch.setattr(Budget, "is_spent", property(lambda self: False))


def give_buffers_of_handlers_no_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = conversations._inherited

    def without(context: Context, thread_id: str) -> dict[str, Any]:
        return {**inherited(context, thread_id), "budget_of": None}

    monkeypatch.setattr(conversations, "_inherited", without)


def pause_only_who_was_given_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    pause = budgets.pause

    def its_own(context: Context, buffer: OpenBuffer, why: str) -> None:
        if why != "budget" or buffer.budget_of == buffer.seq:
            pause(context, buffer, why)

    monkeypatch.setattr(budgets, "pause", its_own)


def hand_out_a_batch_of_what_has_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher._Round, "_in_hand_of", lambda self, worker, buffer: 0)


def look_at_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "end_overdue", lambda context: None)


def sleep_through_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    due = Supervisor._due_by_the_clock_s

    def without(self: Supervisor, now_s: float) -> list[float]:
        self.state.commit()
        for buffer in [*self.state.buffers.values()]:
            self.state.buffers.change(buffer.seq, deadline_at=None)
        found = due(self, now_s)
        self.state.rollback()
        return found

    monkeypatch.setattr(Supervisor, "_due_by_the_clock_s", without)


def begin_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    may_have_work = OpenBuffer.may_have_work

    def at_once(self: OpenBuffer, now_ms: int) -> bool:
        return may_have_work(replace(self, not_before=None), now_ms)

    monkeypatch.setattr(OpenBuffer, "may_have_work", at_once)


def never_have_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    end_early = collector.end_early

    def others(context: Context, buffer: OpenBuffer, how: str) -> None:
        if how != "enough":
            end_early(context, buffer, how)

    monkeypatch.setattr(collector, "end_early", others)


def know_no_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "level_of", lambda buffer, now_s: 0)


def wake_nobody_when_tokens_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor does not look again at a limit by itself."""
    monkeypatch.setattr(limits, "free_in_s", lambda limit, held, now_s: None)


def keep_a_worker_free_for_what_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that must be alone waits for a limit that rests, and a worker for that."""

    def all_of_them(gates: pacing.Gates) -> list[OpenBuffer]:
        return [*gates._state.buffers.values()]

    monkeypatch.setattr(pacing.Gates, "not_at_rest", all_of_them)


@pytest.mark.parametrize(
    "plant",
    [
        forget_limits_at_a_restart,
        write_limits_when_more_is_in_hand,
        charge_limits_when_work_is_handed_out,
        count_as_running_what_has_begun,
        forget_rests,
        forget_rests_at_a_restart,
        charge_an_attempt_for_a_return,
        count_twice_what_is_said_twice,
        forget_what_messages_spend,
        spend_without_an_end,
        give_buffers_of_handlers_no_budget,
        pause_only_who_was_given_the_budget,
        hand_out_a_batch_of_what_has_a_budget,
        look_at_no_deadline,
        sleep_through_deadlines,
        begin_at_any_time,
        never_have_enough,
        know_no_priority,
        wake_nobody_when_tokens_come,
        keep_a_worker_free_for_what_rests,
    ],
)
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    is_found(folder, FIRST_SEED.get(plant.__name__, 0), **PACED)
