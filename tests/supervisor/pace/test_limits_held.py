"""Limits hold over all workers, buffers, messages and restarts, and what waits for one holds nothing."""

from pathlib import Path

import pytest
from apps import pace
from starts import Starts
from support import Facts, kill, now_ms, until

from durable_bus.errors import NotFound, SupervisorLost, UsageError

SECOND = 100.0
"""Of the limit `often`: its rate, and what may start at once."""


@pytest.mark.slow
def test_no_window_has_more_starts_than_a_rate_allows_whoever_is_killed(
    journal: Path, facts: Facts, starts: Starts
) -> None:
    for round_ in range(3):
        with pace.bus.running(journal, workers=3) as client:
            client.start("often", range(150), buffer_id="first")
            client.start("also", range(150), buffer_id="second")
            if round_ < 2:
                facts.until("SELECT count(*) >= ? FROM result", 100 * (round_ + 1))
                assert client.supervisor_pid is not None
                kill(client.supervisor_pid)
                with pytest.raises(SupervisorLost):
                    client.buffer("first").wait(60)
            else:
                for buffer_id in ("first", "second"):
                    assert client.buffer(buffer_id).wait(120).successful == 150
    assert starts.excess(SECOND) <= SECOND + 1.0  # a start is noted a little later than it happens


@pytest.mark.slow
def test_buffers_share_a_limit_whatever_their_listeners(journal: Path, starts: Starts) -> None:
    with pace.bus.running(journal, workers=2) as client:
        buffers = [client.start(target, range(200)) for target in ("often", "also")]
        assert [buffer.wait(60).successful for buffer in buffers] == [200, 200]
    # The first bucketful is for who takes it first, and the last starts are those of who is left.
    assert 25 <= starts.words()[150:250].count("often") <= 75


def test_no_more_run_at_once_than_a_limit_says(journal: Path, starts: Starts) -> None:
    with pace.bus.running(journal, workers=2) as client:
        buffer = client.start("few", range(40))
        assert buffer.wait(60).successful == 40
        spans = [result.value for result in buffer.results()]
    edges = sorted([(began, 1) for began, _ in spans] + [(ended, -1) for _, ended in spans])
    running = most = 0
    for _, step in edges:
        running += step
        most = max(most, running)
    assert most == 3


@pytest.mark.slow
def test_what_waits_holds_nobody_up_is_not_forgotten_and_starts_when_the_limit_is_changed(
    journal: Path, facts: Facts, starts: Starts
) -> None:
    with pace.bus.running(journal, workers=1) as client:
        client.start("rare", [1, 2], buffer_id="waits")
        facts.until_recorded("waits", 1)
        assert client.start("free", range(1_000)).wait(60).successful == 1_000
        assert starts.words() == ["rare 1"]
        assert client.supervisor_pid is not None
        kill(client.supervisor_pid)
    with pace.bus.running(journal, workers=1) as client:
        # The token that was used before the kill has not come back with it.
        assert client.start("free", range(1_000)).wait(60).successful == 1_000
        assert starts.words() == ["rare 1"]
        assert client.set_limit("rare", rate="1000/s").by_hand
        assert client.buffer("waits").wait(60).successful == 2
        assert client.limits()["rare"].rate == "1000/s"
        client.set_limit("rare", reset=True)
        assert client.limits()["rare"].rate == "1/h"
        for name, rate in (("none", "1/s"), ("rare", "often")):
            with pytest.raises((UsageError, NotFound)):
                client.set_limit(name, rate=rate)
    assert starts.words() == ["rare 1", "rare 2"]
    causes = facts.rows("SELECT cause, rate FROM limit_change WHERE name = 'rare' ORDER BY change_id")
    assert causes == [("app", "1/h"), ("hand", "1000/s"), ("reset", "1/h")]


@pytest.mark.slow
def test_a_message_to_a_limited_listener_waits_like_an_item(
    journal: Path, facts: Facts, starts: Starts
) -> None:
    with pace.bus.running(journal, workers=1, name="boss") as client:
        client.send("rare", 1)
        assert client.receive(60).payload == "1"
        client.send("rare", 2)
        assert client.start("free", range(100), collect=False).wait(60).successful == 100
        assert facts.value("SELECT count(*) FROM messages WHERE to_id = 'rare' AND state = 'waiting'") == 1
        client.set_limit("rare", rate="1000/s")
        assert client.receive(60).payload == "2"


@pytest.mark.slow
def test_who_comes_back_is_charged_nothing_and_its_limit_rests(
    journal: Path, facts: Facts, starts: Starts
) -> None:
    with pace.bus.running(journal, workers=2) as client:
        buffer = client.start("returns", [0.0, 0.3, 0.0, 0.2])
        assert buffer.wait(60).successful == 4
        assert [result.value for result in buffer.results()] == [1, 2, 1, 2]
    failures = facts.rows("SELECT item_index, kind, message FROM failures ORDER BY item_index")
    assert failures == [
        (1, "retry_after", "0.3 s, limit rests: too many"),
        (3, "retry_after", "0.2 s, limit rests: too many"),
    ]
    returned = "SELECT retry_at - committed_at FROM failure JOIN journal_commit USING (commit_id) ORDER BY 1"
    assert facts.rows(returned) == [(200,), (300,)]
    assert facts.value("SELECT count(*) FROM limit_change WHERE name = 'rests' AND cause = 'rest'") >= 1


@pytest.mark.slow
def test_an_adaptive_limit_finds_what_the_other_side_takes(
    journal: Path, facts: Facts, starts: Starts
) -> None:
    with pace.bus.running(journal, workers=1) as client:
        buffer = client.start("waits", range(1_500))
        assert buffer.wait(120).successful == 1_500
        slower = "SELECT allowed FROM limit_change WHERE name = 'steady' AND cause = 'slower'"
        until(lambda: facts.rows(slower), "it has become slower")
        # A fifth less than what was too many: it has come down to about ten, from twenty.
        assert min(allowed for (allowed,) in facts.rows(slower)) < 15


@pytest.mark.slow
def test_what_was_in_hand_at_a_kill_is_not_in_hand_after_it(
    journal: Path, facts: Facts, starts: Starts
) -> None:
    in_hand = "SELECT in_hand FROM limits WHERE name = 'few'"
    with pace.bus.running(journal, workers=1) as client:
        client.start("few", range(10_000), buffer_id="late", deadline=0.5)
        facts.until(f"SELECT ({in_hand}) = 3")
        assert client.supervisor_pid is not None
        kill(client.supervisor_pid)
    assert facts.value(in_hand) == 3
    until(lambda: facts.value("SELECT max(deadline_at) FROM buffer") < now_ms(), "it is over")
    with pace.bus.running(journal, workers=1) as client:
        client.buffer("late").wait(60)  # nothing of it is handed out any more
        facts.until(f"SELECT ({in_hand}) = 0")
