"""An equal item gets the answer that is there, and nothing runs."""

from pathlib import Path

import pytest
from apps import pace
from starts import Starts
from support import Facts, kill, module, outcome, until

from durable_bus.supervisor.scheduling import memo


def memos(facts: Facts, buffer_id: str) -> list[int]:
    rows = facts.rows("SELECT memo FROM results WHERE buffer_id = ? ORDER BY item_index", buffer_id)
    return [memo for (memo,) in rows]


def test_an_item_that_was_answered_is_not_run_again_in_any_buffer_or_run(
    journal: Path, facts: Facts, starts: Starts
) -> None:
    with pace.bus.running(journal, workers=2) as client:
        first = client.start("asks", [{"n": n % 5} for n in range(50)], buffer_id="first")
        assert first.wait(60).successful == 50
        assert [result.value for result in first.results()] == [f"answer {n % 5}" for n in range(50)]
        assert client.supervisor_pid is not None
        kill(client.supervisor_pid)
    with pace.bus.running(journal, workers=2) as client:
        second = client.start("asks", [{"n": 9}] + [{"n": n % 5} for n in range(2_500)], buffer_id="second")
        assert second.wait(60).successful == 2_501
        # Another order of keys, another payload: it is compared as it is written.
        client.start("asks", [{"n": 1, "m": 2}, {"m": 2, "n": 1}], buffer_id="third").wait(60)
    assert sum(memos(facts, "first")) == 45
    assert memos(facts, "second") == [0] + [1] * 2_500
    assert memos(facts, "third") == [0, 0]
    assert len(starts.words()) == 5 + 1 + 2


def test_what_equal_items_have_answered_does_not_run_after_a_crash(
    journal: Path, facts: Facts, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the stream nothing was ever handed out. The app's next version gives those answers to nobody."""
    with pace.bus.running(journal, workers=1) as client:
        client.start("asks", [{"n": 1}]).wait(60)
        stream = client.stream("asks", buffer_id="equal")
        for _ in range(10):
            stream.put({"n": 1})
        facts.until_recorded("equal", 10)
        assert client.supervisor_pid is not None
        kill(client.supervisor_pid)
    monkeypatch.setenv("PACE_MEMO", "v2")
    with pace.bus.running(journal, workers=1) as client:
        with client.stream("asks", buffer_id="equal") as stream:
            assert stream.received == 10
            stream.put({"n": 2})
        assert stream.wait(60).successful == 11
    assert memos(facts, "equal") == [1] * 10 + [0]
    assert len(starts.words()) == 2


@pytest.mark.slow
def test_who_fails_answers_nobody_and_equal_items_run_one_after_the_other(
    journal: Path, facts: Facts, starts: Starts
) -> None:
    with pace.bus.running(journal, workers=2) as client:
        assert client.start("asks", [{"n": 1, "fails": 1}] * 4, buffer_id="fail").wait(60).successful == 0
    assert len(starts.words()) == 4
    assert memos(facts, "fail") == [0] * 4


@pytest.mark.slow
def test_only_an_equal_item_in_a_workers_hands_holds_others_back(
    journal: Path, facts: Facts, starts: Starts
) -> None:
    with pace.bus.running(journal, workers=2) as client:
        same = [{"n": 1, "waits": 1}] * 3
        client.start("asks", same + [{"n": n} for n in range(20)], buffer_id="held")
        facts.until("SELECT count(*) = 20 FROM results WHERE buffer_id = 'held'")
        assert len(starts.words()) == 21
        starts.gate.touch()
        assert client.buffer("held").wait(60).successful == 23
    assert memos(facts, "held") == [0, 1, 1] + [0] * 20


@pytest.mark.slow
def test_a_buffer_of_which_thousands_wait_holds_up_no_other(
    journal: Path, facts: Facts, starts: Starts
) -> None:
    """The two gated ones alternate, so that each that waits is a range of its own."""
    with pace.bus.running(journal, workers=3) as client:
        pairs = [{"n": n, "waits": 1} for n in (1, 2)] * (memo.HELD_MAX // 2 + 1_000)
        client.start("asks", pairs, buffer_id="held")
        until(lambda: len(starts.words()) == 2, "two of them run")
        assert client.start("asks", [{"n": n} for n in range(5)] * 2).wait(60).successful == 10
        assert facts.recorded("held") == 0
        starts.gate.touch()
        assert client.buffer("held").wait(60).successful == len(pairs)
    assert len(starts.words()) == 2 + 5


@pytest.mark.slow
def test_a_rerun_runs_whatever_was_answered(journal: Path, facts: Facts, starts: Starts) -> None:
    with pace.bus.running(journal, workers=1) as client:
        client.start("asks", [{"n": 1}] * 3, buffer_id="again").wait(60)
    rerun = module("durable_bus", "replay", "rerun", "again", "apps.pace:bus", "--journal", str(journal))
    code, out, err = outcome(rerun)
    assert (code, err) == (0, ""), out
    assert len(starts.words()) == 1 + 3
