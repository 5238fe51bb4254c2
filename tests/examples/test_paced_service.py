"""The paced example against the service that it asks, over HTTP, whatever is killed."""

import subprocess
from collections import Counter
from pathlib import Path

import pytest
from limited import counts_of, served
from support import Facts, kill, module, outcome, workers_of

pytest.importorskip("httpx", reason="there is no httpx for this Python")

from durable_bus.examples.limited_service import Counts, answer_to, tokens_of
from durable_bus.examples.paced_service import prompts

COUNT = 300
LIMIT = "60/s"
SERVICE_RATE = 80.0
"""Above the limit by as much as calls may come late on a busy machine: a third of a second's worth."""
KILLED_AT = (40, 120, 200)
"""How many results there are when all is killed: behind the limit's first second, and before the end."""


def started(url: str, journal: Path) -> "subprocess.Popen[str]":
    return module("durable_bus.examples.paced_service", url, str(journal), str(COUNT))


def killed(url: str, facts: Facts, results: int) -> list[int]:
    """Start it, and kill the supervisor and its workers when there are so many results, at least one of
    theirs; the items that they had in hand.
    """
    results = max(results, 1 + (facts.value("SELECT completed FROM buffers") or 0))
    process = started(url, facts.journal)
    facts.until(f"SELECT completed >= {results} FROM buffers")
    supervisor_pid = facts.value("SELECT pid FROM runs ORDER BY run_id DESC")
    for pid in (supervisor_pid, *workers_of(supervisor_pid)):
        kill(pid)
    code, _, err = outcome(process)
    assert code != 0
    assert "SupervisorLost" in err
    return [
        index
        for first, count in facts.rows("SELECT first_index, item_count FROM in_flight")
        for index in range(first, first + count)
    ]


@pytest.mark.slow
def test_killed_three_times_each_prompt_is_answered_once_and_the_costs_are_those_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_RATE", LIMIT)
    facts = Facts(tmp_path / "asked.db")
    asked = prompts(COUNT)
    with served("--rate", str(SERVICE_RATE), "--failing", "0.05") as url:
        in_hand = [killed(url, facts, results) for results in KILLED_AT]
        code, out, err = outcome(started(url, facts.journal))
        assert code == 0, err
        counts = counts_of(url)
        # Once more: all is recorded, and nobody asks.
        assert outcome(started(url, facts.journal)) == (0, out, err)
        assert counts_of(url) == counts
    assert out.startswith(f"{COUNT} of {COUNT} answered\n")

    assert facts.rows("SELECT payload FROM results ORDER BY item_index") == [
        (answer_to(one),) for one in asked
    ]
    assert [ended for (ended,) in facts.rows("SELECT ended FROM runs")] == ["crashed"] * 3 + ["clean"] * 2
    assert_never_too_many(counts)
    assert counts.failed > 0
    assert_the_costs_are(counts, facts, Counter(asked[index] for indexes in in_hand for index in indexes))


def assert_never_too_many(counts: Counts) -> None:
    begun_s = min(call.arrived_s for call in counts.calls)
    refused_s = [call.arrived_s - begun_s for call in counts.calls if call.status == 429]
    assert [seconds for seconds in refused_s if seconds > 1] == []


def assert_the_costs_are(counts: Counts, facts: Facts, in_hand: Counter[str]) -> None:
    """The view `spending` has what the service has counted, less what was in hand when all was killed."""
    answered = Counter(call.prompt for call in counts.calls if call.status == 200)
    assert set(answered) == set(prompts(COUNT))
    again = answered - Counter(set(answered))
    assert again <= in_hand  # nothing else was asked twice
    ((recorded_usd, recorded_answers),) = facts.rows(
        "SELECT sum(amount), count(*) FROM spending WHERE unit = 'usd'"
    )
    recorded_tokens = facts.value("SELECT sum(amount) FROM spending WHERE unit = 'tokens'")
    assert len(answered) <= recorded_answers <= counts.answered
    assert counts.answered - recorded_answers <= in_hand.total()
    assert 0 <= counts.tokens - recorded_tokens <= sum(tokens_of(one) * n for one, n in in_hand.items())
    assert recorded_usd == pytest.approx(recorded_tokens * counts.usd / counts.tokens)
