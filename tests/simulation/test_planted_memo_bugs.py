"""Planted bugs in what is given again to equal items: each breaks a promise, and the simulation finds it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from durable_bus.journal.fresh_items import ItemBatch
from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor import maintenance
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import ItemLease, Lease
from durable_bus.supervisor.outcomes import collector, conversations
from durable_bus.supervisor.outcomes.threads import ItemHop
from durable_bus.supervisor.scheduling import begun, memo
from durable_bus.supervisor.state import State
from durable_bus.wire.parts import Segment
from simulation.equals import Equality
from simulation.listeners import LISTENERS
from simulation.planting import change_statement, is_found

EQUAL: dict[str, Any] = {
    "equality": Equality(dict.fromkeys(LISTENERS, "v1"), 0.8, 0.5, 2_000, 10_000, 500),
    "talk": 0.3,
    "clients": 4,
    "items_max": 20,
}
"""Schedules in which much is equal."""
FIRST_SEED = {
    "give_the_answer_of_other_code": 165,
    "keep_who_waits_after_its_buffer": 7,
    "pass_who_waits_with_low_water": 152,
    "remember_failures": 5,
}
"""Those that need a rare moment begin with a schedule that has it, or shortly before."""


def give_the_answer_of_another_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "form_of_each", lambda digits, count: (0,) * count)


def give_the_answer_of_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under any memo text."""
    digests = memo._digests

    def without(settings: ListenerSettings, items: ItemBatch) -> list[bytes]:
        return digests(msgspec.structs.replace(settings, memo=""), items)

    monkeypatch.setattr(memo, "_digests", without)


def forget_to_release_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "release", lambda context, gates: None)


def remember_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    remember = memo.remember

    def both(context: Context, lease: Lease | None, segment: Segment) -> None:
        remember(context, lease, msgspec.structs.replace(segment, success=True))

    monkeypatch.setattr(memo, "remember", both)
    change_statement(monkeypatch, "add_memo", ("r.success = 1 AND", ""))
    change_statement(monkeypatch, "memos", ("AND r.success = 1", ""))


def remember_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "remember", lambda context, lease, segment: None)


def hand_out_an_equal_item_beside_one_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "_in_hand", lambda state: set())


def keep_who_waits_after_its_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was: who waited stayed in memory until nobody held an equal item."""
    monkeypatch.setattr(collector, "_forget_who_waits", lambda state, buffer_seq: None)


def pass_who_waits_with_low_water(monkeypatch: pytest.MonkeyPatch) -> None:
    begun_ranges, note = begun.begun_ranges, begun.note_low_water

    def without(state: State, buffer: Any) -> list[tuple[int, int]]:
        held = {(back.first, 1) for seq, back in state.held_equal if seq == buffer.seq}
        return [span for span in begun_ranges(state, buffer) if span not in held]

    def passing(context: Context) -> None:
        with pytest.MonkeyPatch.context() as there:
            there.setattr(begun, "begun_ranges", without)
            note(context)

    monkeypatch.setattr(maintenance, "note_low_water", passing)


def remember_what_was_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody else has answered is given to items that equal it, too."""
    item_outcome, record_passed_on = conversations.item_outcome, collector.record_passed_on
    digests: dict[tuple[int, int], bytes] = {}

    def outcome(context: Context, lease: ItemLease, index: int, *what: Any) -> None:
        if lease.memo:
            digests[lease.buffer_seq, index] = lease.memo[index - lease.first]
        item_outcome(context, lease, index, *what)

    def record(context: Context, hop: ItemHop, payload: str, *, success: bool, form: int) -> None:
        record_passed_on(context, hop, payload, success=success, form=form)
        row = context.journal.buffers.by_id(hop.buffer_id)
        if row is not None and (row.buffer_seq, hop.item_index) in digests:
            digest = digests[row.buffer_seq, hop.item_index]
            context.journal.work.remember(row.buffer_seq, hop.item_index, (digest,))

    monkeypatch.setattr(conversations, "item_outcome", outcome)
    monkeypatch.setattr(collector, "record_passed_on", record)
    forwarded = "NOT EXISTS (SELECT 1 FROM forwarded_item o WHERE o.item_key = column2)"
    change_statement(monkeypatch, "add_memo", (forwarded, "1"))


@pytest.mark.parametrize(
    "plant",
    [
        give_the_answer_of_another_form,
        give_the_answer_of_other_code,
        forget_to_release_who_waits,
        remember_failures,
        remember_nothing,
        hand_out_an_equal_item_beside_one_in_hand,
        keep_who_waits_after_its_buffer,
        pass_who_waits_with_low_water,
        remember_what_was_forwarded,
    ],
)
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    is_found(folder, FIRST_SEED.get(plant.__name__, 0), **EQUAL)
