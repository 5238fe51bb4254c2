"""What simulated schedules have found about items that equal others, each in its shortest form."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from durable_bus.supervisor.scheduling import memo
from durable_bus.supervisor.state import State
from durable_bus.wire.parts import Terms
from simulation.equals import with_memos
from simulation.listeners import LISTENERS, SimulatedApp
from simulation.machine import Machine
from simulation.records import Content


@pytest.fixture
def machine(folder: Path) -> Iterator[Machine]:
    machine = Machine(0, folder, workers=1, app=SimulatedApp(with_memos(LISTENERS, {"once": "v1"})))
    yield machine
    machine.close()


def some(buffer_id: str, *texts: str, return_to: str = "", priority: int = 0) -> Content:
    terms = Terms(priority=priority)
    return Content(buffer_id, "once", True, texts, (0,) * len(texts), return_to, terms)


def turn_until(machine: Machine, is_so: Callable[[State], bool]) -> None:
    while machine.supervisor is None or not is_so(machine.supervisor.state):
        machine.turn()


def has_ended(machine: Machine, buffer_id: str) -> bool:
    query = "SELECT 1 FROM buffer WHERE buffer_id = ? AND ended_commit IS NOT NULL"
    return bool(machine.model.query(query, buffer_id))


def test_the_completion_of_a_buffer_that_only_got_answers_again_goes_out_at_once(machine: Machine) -> None:
    """It was written after messages had been planned, and waited until something else happened."""
    machine.start_buffer(some("first", "item 0 ok"), [1])
    turn_until(machine, lambda state: has_ended(machine, "first"))
    machine.start_buffer(some("second", "item 0 ok", return_to="thrice"), [1])
    machine.settle()
    query = """
        SELECT count(*), max(d.committed_at - c.committed_at) < 100 FROM message m
        JOIN journal_commit c ON c.commit_id = created_commit
        JOIN journal_commit d ON d.commit_id = delivered_commit WHERE message_id = 'second/complete'"""
    assert machine.model.query(query) == [(1, 1)]
    assert machine.memos.given_again == 1


def test_nothing_of_a_buffer_that_was_cancelled_waits_for_an_equal_item(machine: Machine) -> None:
    """It stayed in memory until nobody had the other one any more."""
    machine.start_buffer(some("first", "item 0 hang"), [1])
    turn_until(machine, lambda state: bool(state.leases))
    machine.start_buffer(some("second", "item 0 hang"), [1])
    turn_until(machine, lambda state: bool(state.held_equal))
    machine.control("cancel", "second")
    turn_until(machine, lambda state: has_ended(machine, "second"))
    assert machine.supervisor is not None
    assert machine.supervisor.state.leases
    assert not machine.supervisor.state.held_equal
    machine.settle()


def test_an_urgent_buffer_is_first_though_a_turn_does_not_look_through_it(machine: Machine) -> None:
    """What was less urgent went out in each turn that had looked at as many answers as it may."""
    machine.start_buffer(some("first", "item 0 ok"), [1])
    turn_until(machine, lambda state: has_ended(machine, "first"))
    texts = ("item 0 ok",) * 200
    machine.start_buffer(some("urgent", *texts, priority=5), [200])
    machine.start_buffer(some("other", "item 1 ok"), [1])
    with patch.object(memo, "LOOKS_MAX", 1):
        machine.settle()
    ended = machine.model.query("SELECT buffer_id FROM buffer ORDER BY ended_commit")
    assert ended == [("first",), ("urgent",), ("other",)]
    assert machine.memos.given_again == 200


def test_equal_items_that_all_fail_are_looked_at_twice_each(machine: Machine) -> None:
    """All of them were looked at anew each time that one had failed: 2,000 took 27 s."""
    looked_at: list[int] = []
    digests_of = memo._digests

    def counting(*arguments: Any) -> list[bytes]:
        digests = digests_of(*arguments)
        looked_at.append(len(digests))
        return digests

    machine.start_buffer(some("equal", *["item 0 raise"] * 100), [100])
    with patch.object(memo, "_digests", counting):
        machine.settle()
    assert machine.model.query("SELECT failed FROM buffer") == [(100,)]
    assert sum(looked_at) <= 200


def test_who_waits_is_released_although_its_buffer_is_full_of_those_who_wait(machine: Machine) -> None:
    """The one that goes back does not count: those behind it still wait, and it would wait for them."""
    machine.start_buffer(some("equal", *["item 0 raise", "item 1 raise"] * 10), [20])
    with patch.object(memo, "HELD_MAX", 1):
        machine.settle()
    assert machine.model.query("SELECT failed FROM buffer") == [(20,)]


def test_who_waits_by_the_memo_text_of_old_code_goes_on_with_all_others(machine: Machine) -> None:
    """One of them went on in each turn and got the answer by the new text, and nothing made another turn."""
    others = [f"item {number} ok" for number in range(1, 9)]
    machine.start_buffer(some("equal", *others, "item 9 slow", *["item 0 ok"] * 10), [19])
    turn_until(machine, lambda state: bool(state.held_equal))
    machine.new_code(with_memos(LISTENERS, {"once": "v2"}), {})
    machine.signal("reload")
    turn_until(machine, lambda state: machine.memos.given_again > 0)
    assert machine.memos.given_again == 9
    machine.settle()
