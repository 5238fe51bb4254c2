"""What a supervisor counts for metrics: commits by how long they took, workers by how they ended."""

import pytest

from durable_bus.errors import WorkerDeath, WorkerExited, WorkerKilled, WorkerSilent, WorkerUnresponsive
from durable_bus.supervisor.figures import Counting
from durable_bus.wire.parts import EXIT_REASONS


@pytest.mark.parametrize(
    ("death", "reason"),
    [
        (WorkerExited(0), "left"),
        (WorkerExited(3), "exited"),
        (WorkerKilled(9), "killed"),
        (WorkerSilent(5.0), "timeout"),
        (WorkerUnresponsive(), "unresponsive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_end_has_its_reason(death: WorkerDeath, reason: str) -> None:
    counting = Counting()
    counting.worker_ended(death)
    counting.committed(None)
    assert counting.told().exits == {**dict.fromkeys(EXIT_REASONS, 0), reason: 1}


def test_an_end_counts_once_when_its_commit_was_refused_and_made_again() -> None:
    counting = Counting()
    counting.worker_ended(WorkerKilled(9))
    counting.refused()
    assert counting.told().exits["killed"] == 0
    counting.worker_ended(WorkerKilled(9))
    counting.committed(1000)
    counting.committed(1000)
    assert counting.told().exits["killed"] == 1


def test_a_commit_is_in_the_first_bound_that_it_does_not_pass() -> None:
    counting = Counting()
    for duration_ns in (1, 100_000, 100_001, 10**10):
        counting.committed(duration_ns)
    counting.committed(None)
    told = counting.told()
    assert told.commit_bounds_us[:2] == [100, 500]
    assert told.commits == [2, 1, *[0] * 8, 1]
    assert told.commits_us == 10_000_200
