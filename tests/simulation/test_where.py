"""Work that engines run: the journal says where, of what was answered, what failed and what was lost."""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest

from durable_bus.errors import WorkerKilled
from durable_bus.supervisor.state import Worker
from durable_bus.supervisor.workers import workforce
from durable_bus.wire import work as frames
from simulation import Machine
from simulation.handlers import Answers, Call, Dies, Handling, Raises
from simulation.records import Content
from simulation.schedule import cuts

ENGINE = "dask:tcp://10.0.0.1:8786"
PLACES = """
    SELECT 'dispatch', place FROM dispatch
    UNION SELECT 'failure', kind || ' ' || coalesce(place, 'here') FROM failure
    UNION SELECT 'answer', place FROM answer
"""


def handled(call: Call) -> Handling:
    if call.text == "raise":
        return Raises(0.1, "exception", "ValueError: no good at all")
    return Dies(0.1, WorkerKilled(11)) if call.text == "die" else Answers(0.1, call.text)


@pytest.fixture
def machine(folder: Path) -> Iterator[Machine]:
    machine = Machine(0, folder, workers=2, handler=handled)
    yield machine
    machine.close()


def ran(machine: Machine) -> set[tuple[str, str | None]]:
    texts = ("good", "raise", "die")
    content = Content("b", "once", True, texts, (0,) * len(texts))
    machine.start_buffer(content, cuts(random.Random(0), len(texts)))
    machine.settle()
    return {(what, place) for what, place in machine.model.query(PLACES)}


def test_workers_of_ours_run_here(machine: Machine) -> None:
    assert ran(machine) == {
        ("dispatch", None), ("answer", None), ("failure", "exception here"), ("failure", "lost here")
    }  # fmt: skip


def test_what_an_engine_says_of_where_it_ran_is_kept_and_its_name_where_it_says_nothing(
    machine: Machine,
) -> None:
    said = partial(frames.Answers, where="node7:4711")
    with (
        patch.object(workforce, "Worker", partial(Worker, where=ENGINE)),
        patch.object(frames, "Answers", said),
    ):
        assert ran(machine) == {
            ("dispatch", ENGINE), ("answer", "node7:4711"), ("answer", ENGINE),
            ("failure", "exception node7:4711"), ("failure", f"lost {ENGINE}"),
        }  # fmt: skip
    rows = machine.model.query('SELECT r.item_index, r."where" FROM results r ORDER BY 1')
    assert rows == [(0, "node7:4711"), (1, "node7:4711"), (2, ENGINE)]


def test_an_engine_that_never_says_it_is_where_all_ran(machine: Machine) -> None:
    with patch.object(workforce, "Worker", partial(Worker, where=ENGINE)):
        assert {place for what, place in ran(machine) if what != "failure"} == {ENGINE}
