"""A worker that does not begin what it was given: it is stopped, or wedged between items.

What it holds goes to others, a single item too. Then it is killed and replaced. Nobody is charged: nothing
ran in it.
"""

import os
import signal
from pathlib import Path

import pytest
from apps import plain, unruly
from support import Facts, RunLog

from durable_bus import Client


def worker_pids(facts: Facts, client: Client, workers: int) -> list[int]:
    """All of them, when each has answered something."""
    number = 0
    while True:
        number += 1
        client.start("sleep", ["0.01"] * 4 * workers, buffer_id=f"warm{number}").wait(60)
        pids = [pid for (pid,) in facts.rows("SELECT DISTINCT worker_pid FROM results")]
        if len(pids) == workers:
            return pids


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [1, 2])
def test_a_buffer_beside_idle_workers_that_are_stopped_ends(
    journal: Path, facts: Facts, stopped: int
) -> None:
    with plain.bus.running(journal=journal, workers=2) as client:
        pids = worker_pids(facts, client, 2)[:stopped]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        for number in range(4):
            buffer = client.start("sleep", ["0"], buffer_id=f"b{number}")
            assert buffer.wait(60).successful == 1
        assert facts.value("SELECT count(*) FROM failures") == 0


def test_a_stopped_worker_is_replaced(journal: Path, facts: Facts) -> None:
    with plain.bus.running(journal=journal, workers=1) as client:
        (pid,) = worker_pids(facts, client, 1)
        os.kill(pid, signal.SIGSTOP)
        assert client.start("sleep", ["0"], buffer_id="b").wait(60).successful == 1
        (other,) = facts.rows("SELECT DISTINCT worker_pid FROM results WHERE buffer_id = 'b'")
        assert other != (pid,)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert facts.rows("SELECT ended FROM dispatches WHERE buffer_id = 'b' ORDER BY 1") == [
        ("answered",),
        ("returned",),
    ]


@pytest.mark.slow
def test_the_only_worker_is_replaced_when_it_stops_between_items_that_have_no_time_out(
    journal: Path, facts: Facts
) -> None:
    """Nobody idles who would take the rest, and nothing else happens that would make somebody look."""
    with unruly.bus.running(journal=journal, workers=1) as client:
        buffer = client.start("stops-after-it", ["yes", "no"], buffer_id="b")
        assert buffer.wait(60).successful == 2
        assert facts.value("SELECT count(*) FROM failures") == 0


@pytest.mark.slow
def test_small_buffers_do_not_go_from_worker_to_worker(journal: Path, facts: Facts, run_log: RunLog) -> None:
    """Three workers, 30 items of a millisecond: a range went from one idle worker to the next, for seconds,
    each time before it could be begun, and each hop was a commit.
    """
    with plain.bus.running(journal=journal, workers=3) as client:
        worker_pids(facts, client, 3)
        for number in range(20):
            client.start("sleep", ["0.001"] * 30, buffer_id=f"b{number}").wait(60)
    (returned,) = facts.rows(
        "SELECT count(*) FROM dispatches WHERE ended = 'returned' AND buffer_id GLOB 'b*'"
    )
    assert returned < (20 * 3 * 4,)
