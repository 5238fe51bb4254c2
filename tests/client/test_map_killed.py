"""Whoever is killed or leaves, `map` called again gives each value once, and runs nothing again."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from apps import mapping
from maps import Source, mapped
from streams_seen import is_clean
from support import (
    Facts,
    RunLog,
    children_of,
    kill,
    outcome,
    program,
    until_gone,
    workers_of,
)

from durable_bus import map as durable_map
from durable_bus.client.stream import AHEAD
from durable_bus.errors import (
    SupervisorLost,
)

READ_MAX = AHEAD


@pytest.mark.slow
@pytest.mark.parametrize("how", ["closed", "dropped", "thrown into"])
def test_a_generator_that_is_left_leaves_no_process_behind(journal: Path, how: str, run_log: RunLog) -> None:
    before = set(children_of(os.getpid()))
    values: Any = durable_map(mapping.square, Source(), journal=journal, workers=2)
    assert next(values) == 0
    started = set(children_of(os.getpid())) - before
    assert len(started) == 1
    below = workers_of(*started)
    assert below
    if how == "closed":
        values.close()
    elif how == "dropped":
        del values
    else:
        with pytest.raises(ZeroDivisionError):
            values.throw(ZeroDivisionError())
    for pid in (*started, *below):
        until_gone(pid)
    recorded = Facts(journal).value("SELECT completed FROM buffers")
    assert recorded == len(run_log.runs()), "what ran was recorded"
    more = durable_map(mapping.square, Source(), journal=journal, workers=2)
    assert [next(more) for _ in range(20_000)][-1] == 19_999**2
    more.close()  # type: ignore[attr-defined]
    assert max(run_log.times().values()) == 1
    assert is_clean(journal)


COUNTED = """
import sys
import durable_bus
from apps import mapping
values = durable_bus.map(mapping.square, range(int(sys.argv[2])), journal=sys.argv[1], workers=2)
print(sum(1 for value in values))
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["client", "supervisor"])
def test_whoever_is_killed_nothing_recorded_runs_again_and_each_value_comes_once(
    tmp_path: Path, journal: Path, facts: Facts, run_log: RunLog, victim: str
) -> None:
    total = 30_000
    for recorded in (1, 7_500, 15_000):
        done, lines = recorded_indexes(facts), len(run_log.runs())
        ran = program(tmp_path / "counted.py", COUNTED, str(journal), str(total))
        facts.until(f"SELECT completed >= {max(recorded, len(done) + 1)} FROM buffers")
        (supervisor,) = children_of(ran.pid)
        below = workers_of(supervisor)
        if victim == "client":
            ran.kill()
            ran.communicate()
        else:
            kill(supervisor)
            code, _, err = outcome(ran)
            assert (code, "SupervisorLost" in err) == (1, True), err
        for pid in (supervisor, *below):
            until_gone(pid)
        assert not done & set(run_log.indexes()[lines:])
    done, lines = recorded_indexes(facts), len(run_log.runs())
    assert mapped(journal, range(total)) == [number**2 for number in range(total)]
    assert set(run_log.indexes()[lines:]) == set(range(total)) - done
    assert len(run_log.runs()) - lines == total - len(done)
    facts.assert_whole(facts.value("SELECT buffer_id FROM buffers"), total)
    assert is_clean(journal)


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_only_what_it_had_not_given_back(
    journal: Path, facts: Facts, run_log: RunLog, door: Path
) -> None:
    items = [*range(500), 1000, *range(500, 999)]
    values = durable_map(mapping.gate, items, journal=journal, workers=1, buffer_id="b")
    assert next(values) == 0
    run_log.until_started(1000)
    kill(run_log.worker_of(1000))
    done, lines = recorded_indexes(facts), len(run_log.runs())
    door.touch()
    assert list(values) == items[1:]
    assert not {items[index] for index in done} & set(run_log.indexes()[lines:])
    assert is_clean(journal)


def recorded_indexes(facts: Facts) -> set[int]:
    return {index for (index,) in facts.rows("SELECT item_index FROM results")}


@pytest.mark.slow
def test_a_supervisor_that_dies_is_an_error_and_the_call_goes_on_afterwards(
    journal: Path, door: Path, run_log: RunLog
) -> None:
    before = set(children_of(os.getpid()))
    values = durable_map(mapping.gate, [1, 1000, 2], journal=journal, workers=1)
    assert next(values) == 1
    run_log.until_started(1000)
    (supervisor,) = set(children_of(os.getpid())) - before
    kill(supervisor)
    with pytest.raises(SupervisorLost):
        next(values)
    door.touch()
    assert mapped(journal, [1, 1000, 2], mapping.gate) == [1, 1000, 2]
    assert run_log.times()[1] == 1


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind_and_the_call_goes_on(
    tmp_path: Path, journal: Path, facts: Facts, run_log: RunLog
) -> None:
    ran = program(tmp_path / "counted.py", COUNTED, str(journal), str(30_000))
    facts.until("SELECT completed >= 100 FROM buffers")
    (supervisor,) = children_of(ran.pid)
    ran.send_signal(signal.SIGINT)
    code, out, err = outcome(ran)
    assert (code, out) == (-signal.SIGINT, "")
    assert err.strip().endswith("KeyboardInterrupt")
    until_gone(supervisor)
    assert len(recorded_indexes(facts)) == len(run_log.runs())
    assert len(mapped(journal, range(30_000))) == 30_000
    assert max(run_log.times().values()) == 1
