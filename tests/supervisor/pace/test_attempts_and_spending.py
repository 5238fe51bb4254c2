"""From a handler to the rows: RetryAfter, what is retried, and what is spent. Real workers and supervisor."""

from pathlib import Path

import pytest
from apps import pacing, pacing_async
from support import Facts, RunLog

from durable_bus import Bus

COROUTINES = pytest.param(pacing_async.bus, id="async", marks=pytest.mark.slow)
BOTH = pytest.mark.parametrize("bus", [pytest.param(pacing.bus, id="sync"), COROUTINES])
SPENDING = "SELECT listener, unit, amount, item_index, attempt FROM spending ORDER BY attempt, unit"


@BOTH
def test_an_item_comes_back_until_it_succeeds_and_no_attempt_is_charged(
    journal: Path, facts: Facts, bus: Bus
) -> None:
    """Its listener tries once. It spends each time."""
    door = journal.parent / "door"
    steps = [["spend", {"usd": 1}], ["after, unless", str(door), 0.01, "api", "429"]]
    with bus.running(journal=journal, workers=1) as client:
        buffer = client.start("ask", [steps, []], buffer_id="b")
        facts.until("SELECT count(*) > 2 FROM failures WHERE kind = 'retry_after'")
        door.touch()
        assert buffer.wait(60).successful == 2
    failures = facts.failures("b")
    assert {(index, kind, message) for index, _, kind, message in failures} == {
        (0, "retry_after", "0.01 s, limit api: 429")
    }
    attempts = [*range(1, len(failures) + 2)]
    assert [attempt for _, attempt, _, _ in failures] == attempts[:-1]
    assert facts.rows(SPENDING) == [("ask", "usd", 1.0, 0, attempt) for attempt in attempts]


@pytest.mark.slow
@BOTH
def test_while_a_limit_rests_nothing_of_it_runs_and_everything_else_does(
    journal: Path, facts: Facts, run_log: RunLog, bus: Bus
) -> None:
    with bus.running(journal=journal, workers=1) as client:
        asking = client.start("ask", [[["after", 3600, "disk"]], *[[]] * 20], buffer_id="asking")
        facts.until("SELECT count(*) FROM failures")
        storing = client.start("store", [[]] * 5, buffer_id="storing")
        assert client.start("free", [[]] * 50).wait(60).successful == 50
        facts.until("SELECT in_hand = 0 AND rests_until IS NOT NULL FROM limits WHERE name = 'disk'")
        assert client.start("free", [[]] * 50).wait(60).successful == 50
        for buffer in (asking, storing):
            client.cancel(buffer.buffer_id)
    begun = [run.index for run in run_log.runs() if run.word in ("ask", "store")]
    assert begun == [0]
    assert facts.recorded("storing") == 0


@pytest.mark.slow
def test_what_was_spent_before_a_worker_is_killed_for_its_time_out_counts(
    journal: Path, facts: Facts
) -> None:
    """The second attempt, too: a time-out is retried, whatever `retry_on` says."""
    steps = [["spend", {"usd": 0.5}], ["gate", str(journal.parent / "never")]]
    with pacing.bus.running(journal=journal, workers=1) as client:
        assert client.start("impatient", [steps], buffer_id="b").wait(60).successful == 0
    assert [(attempt, kind) for _, attempt, kind, _ in facts.failures("b")] == [
        (1, "timeout"),
        (2, "timeout"),
    ]
    assert facts.rows(SPENDING) == [("impatient", "usd", 0.5, 0, attempt) for attempt in (1, 2)]


@BOTH
def test_an_exception_that_is_not_retried_fails_its_item_at_once(
    journal: Path, facts: Facts, bus: Bus
) -> None:
    with bus.running(journal=journal, workers=1) as client:
        steps = [[["raise", "ValueError"]], [["raise", "FileNotFoundError"]]]
        assert client.start("picky", steps, buffer_id="b").wait(60).successful == 0
    assert sorted((index, attempt) for index, attempt, _, _ in facts.failures("b")) == [
        (0, 1), (1, 1), (1, 2), (1, 3),
    ]  # fmt: skip
