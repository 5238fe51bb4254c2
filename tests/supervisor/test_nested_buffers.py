"""Buffers within buffers within buffers, with workers killed meanwhile."""

import random
from pathlib import Path

import pytest
from apps import counting
from support import Facts, is_alive, kill, until

COMPLETES = "SELECT count(*) FROM messages WHERE kind = 'BufferComplete'"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "item_ms", "deaths"),
    [(5, 20, 4), pytest.param(12, 2, 15, marks=pytest.mark.timeout(600))],
)
def test_three_levels_complete_once_each_whatever_is_killed(
    journal: Path, facts: Facts, width: int, item_ms: int, deaths: int
) -> None:
    buffers = 1 + width + width**2
    results = width + width**2 + width**3
    chance = random.Random(width)
    with counting.bus.running(journal=journal, workers=2) as client:
        items = [f"2 {width} {item_ms} {number}" for number in range(width)]
        buffer = client.start("count", items, buffer_id="top")
        killed: set[int] = set()
        for death in range(deaths):
            facts.until("SELECT count(*) >= ? FROM result", death * results // (deaths + 1))
            victim = until(lambda: a_busy_worker(facts, killed, chance), "a worker has answered")
            kill(victim)
            killed.add(victim)
        assert buffer.wait(300).successful == width
        answers = [result.payload for result in buffer.results()]
        assert ",".join(answers) == ",".join(map(str, range(width**3)))
    assert len(killed) == deaths
    assert facts.value("SELECT count(*) FROM buffers WHERE state = 'complete'") == buffers
    assert facts.value("SELECT count(*) FROM results WHERE success = 1") == results
    assert facts.value("SELECT count(*) FROM results") == results
    assert facts.value(COMPLETES) == buffers
    assert facts.value(f"{COMPLETES} AND state = 'settled'") == buffers
    once = "SELECT count(DISTINCT message_id) FROM messages WHERE kind = 'BufferComplete'"
    assert facts.value(once) == buffers
    assert facts.rows("SELECT * FROM in_flight") == []
    assert facts.rows("SELECT * FROM messages WHERE state <> 'settled'") == []
    assert facts.rows("SELECT kind FROM failures WHERE kind <> 'lost'") == []


def a_busy_worker(facts: Facts, dead: set[int], chance: random.Random) -> int | None:
    """One that has answered, so that it did not die at boot, and still lives."""
    answered = facts.rows("SELECT DISTINCT worker_pid FROM answer WHERE worker_pid IS NOT NULL")
    living = sorted(pid for (pid,) in answered if pid not in dead and is_alive(pid))
    return chance.choice(living) if living else None
