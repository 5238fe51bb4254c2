"""One slow item holds up nobody.

A slow item here is one that waits for a file which the test makes only when everything else is recorded: if
anything had to wait for it, these tests would never end.
"""

from pathlib import Path

import pytest
from apps import awaiting, plain
from support import Facts, RunLog


def test_fast_items_are_recorded_while_a_slow_one_before_them_still_runs(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    door = journal.parent / "door"
    with plain.bus.running(journal=journal, workers=2) as client:
        buffer = client.start("gate", [str(door), *[""] * 200], buffer_id="b")
        facts.until_recorded("b", 200)
        assert facts.value("SELECT count(*) FROM results WHERE item_index = 0") == 0
        assert facts.value("SELECT state FROM items WHERE item_index = 0") == "in_flight"
        door.touch()
        assert buffer.wait(60).successful == 201
    assert set(run_log.times().values()) == {1}


@pytest.mark.slow
def test_a_slow_item_in_the_midst_of_long_batches_holds_up_only_itself(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    """By then batches are long: what the worker of the slow item holds behind it is given to the other."""
    door = journal.parent / "door"
    with plain.bus.running(journal=journal, workers=2) as client:
        client.start("gate", [""] * 3000, buffer_id="before").wait(60)
        buffer = client.start("gate", [*[""] * 1000, str(door), *[""] * 1000], buffer_id="b")
        facts.until_recorded("b", 2000)
        assert facts.value("SELECT count(*) FROM results WHERE buffer_id = 'b' AND item_index = 1000") == 0
        door.touch()
        assert buffer.wait(60).successful == 2001
    assert run_log.times()[1000] == 2, "once in each buffer"


@pytest.mark.slow
def test_what_a_lone_worker_answered_before_a_slow_item_is_recorded_while_that_runs(
    journal: Path, facts: Facts
) -> None:
    door = journal.parent / "door"
    with plain.bus.running(journal=journal, workers=1) as client:
        client.start("gate", [""] * 3000, buffer_id="before").wait(60)
        buffer = client.start("gate", [*[""] * 100, str(door), *[""] * 100], buffer_id="b")
        facts.until_recorded("b", 100)
        door.touch()
        assert buffer.wait(60).successful == 201


@pytest.mark.slow
def test_two_buffers_take_turns_and_a_small_one_does_not_wait_for_a_big_one(
    journal: Path, facts: Facts
) -> None:
    with plain.bus.running(journal=journal, workers=1) as client:
        big = client.start("sleep", ["0.001"] * 3000, buffer_id="big")
        small = client.start("sleep", ["0.001"] * 20, buffer_id="small")
        assert small.wait(60).successful == 20
        assert big.status().state == "open"
        assert big.wait(60).successful == 3000
    ends = dict(facts.rows("SELECT buffer_id, ended_commit FROM buffer"))
    assert ends["small"] < ends["big"]


@pytest.mark.slow
def test_slow_async_items_hold_up_no_others_of_their_worker(journal: Path, facts: Facts) -> None:
    door = journal.parent / "door"
    with awaiting.bus.running(journal=journal, workers=1) as client:
        buffer = client.start("gate", [str(door)] * 9 + [""] * 100, buffer_id="b")
        facts.until_recorded("b", 100)
        assert facts.value("SELECT count(*) FROM results WHERE item_index < 9") == 0
        door.touch()
        assert buffer.wait(60).successful == 109
