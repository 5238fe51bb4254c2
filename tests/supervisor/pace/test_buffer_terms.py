"""Under which terms buffers run: budgets, early ends, waits and priorities."""

import time
from pathlib import Path

import pytest
from apps import pace
from services import Raw, Service
from starts import Starts
from support import Facts, kill, until

from durable_bus.errors import BufferError
from durable_bus.wire.framing import encode
from durable_bus.wire.protocol import Resume


def ended_how(facts: Facts, buffer_id: str) -> tuple[str, str]:
    return facts.rows("SELECT state, ended_how FROM buffers WHERE buffer_id = ?", buffer_id)[0]


def paused_for_its_budget(facts: Facts, buffer_id: str) -> None:
    facts.until("SELECT paused_why = 'budget' FROM buffers WHERE buffer_id = ?", buffer_id)
    facts.until("SELECT count(*) = 0 FROM in_flight WHERE buffer_id = ?", buffer_id)


def spent(facts: Facts, unit: str = "usd") -> float:
    return facts.value("SELECT coalesce(sum(amount), 0) FROM spending WHERE unit = ?", unit)


@pytest.mark.slow
def test_each_attempt_is_paid_for_once(journal: Path, facts: Facts, starts: Starts) -> None:
    with pace.bus.running(journal, workers=2) as client:
        assert client.start("spends", [0.5, 2.0, 1.0], buffer_id="paid").wait(60).successful == 3
    rows = facts.rows("SELECT item_index, attempt, amount, listener FROM spending WHERE unit = 'usd'")
    paid = [(0, 1, 0.5), (1, 1, 2.0), (1, 2, 2.0), (2, 1, 1.0)]
    assert sorted(rows) == [(*one, "spends") for one in paid]
    assert spent(facts, "calls") == 4


def test_a_buffer_that_has_spent_its_budget_is_paused_until_it_is_resumed_with_more(
    journal: Path, facts: Facts, starts: Starts
) -> None:
    with pace.bus.running(journal, workers=2) as client:
        buffer = client.start("spends", [0.8] * 40, buffer_id="dear", budget={"usd": 5})
        paused_for_its_budget(facts, "dear")
        assert 5 <= spent(facts) <= 5 + 3 * 0.8  # what was in hand: an item a worker
        with pytest.raises(BufferError, match="more"):  # seven items are 5.6
            client.resume("dear", budget={"usd": 0.1})
        client.resume("dear")
        paused_for_its_budget(facts, "dear")
        assert 10 <= spent(facts) <= 10 + 3 * 0.8
    with pace.bus.running(journal, workers=2) as client:
        assert client.buffer("dear").status().paused  # after a restart, too
        client.resume("dear", budget={"usd": 100})
        assert client.buffer("dear").wait(60).successful == 40
    assert spent(facts) == pytest.approx(32)
    assert buffer.buffer_id == "dear"


@pytest.mark.slow
def test_a_resume_whose_answer_was_lost_grants_once(journal: Path, facts: Facts, starts: Starts) -> None:
    """The client asks again, and the next supervisor must not grant the same once more."""
    request = encode(Resume("again", "dear", {"usd": 2.0}))
    with Service(journal, "apps.pace:bus", workers=1) as service:
        with service.client() as client:
            client.start("spends", [1.0] * 40, buffer_id="dear", budget={"usd": 3})
            paused_for_its_budget(facts, "dear")
            assert spent(facts) == 3
        with Raw(journal) as raw:
            raw.hello()
            raw.write(request)
            told = raw.answer()
        paused_for_its_budget(facts, "dear")
        service.restart()
        service.until_serving()
        with Raw(journal) as raw:
            raw.hello()
            raw.write(request)
            assert raw.answer() == told
        assert facts.rows("SELECT amount FROM budget ORDER BY commit_id") == [(3.0,), (2.0,)]
    assert spent(facts) == 5


@pytest.mark.slow
def test_what_handlers_start_spends_of_the_same_budget(journal: Path, facts: Facts, starts: Starts) -> None:
    with pace.bus.running(journal, workers=2) as client:
        client.start("spreads", [100], buffer_id="outer", budget={"usd": 3}, priority=4)
        paused_for_its_budget(facts, "inner")
        assert 3 <= spent(facts) <= 3 + 1
        assert (
            facts.rows("SELECT paused_why, priority FROM buffers ORDER BY buffer_id") == [("budget", 4)] * 2
        )
        client.resume("outer", budget={"usd": 1000})
        facts.until("SELECT state = 'complete' FROM buffers WHERE buffer_id = 'inner'")
        client.cancel("outer")


@pytest.mark.parametrize(
    ("terms", "how", "counts"),
    [
        ({"enough": 3}, "enough", (3, 0)),
        pytest.param({"max_failures": 2}, "max_failures", (0, 2), marks=pytest.mark.slow),
    ],
)
def test_a_buffer_ends_when_it_has_enough_of_one_or_the_other(
    journal: Path, facts: Facts, starts: Starts, terms: dict[str, int], how: str, counts: tuple[int, int]
) -> None:
    with pace.bus.running(journal, workers=2) as client:
        buffer = client.start("fails", range(10_000), buffer_id="ends", **terms)  # type: ignore[arg-type]
        complete = buffer.wait(60)
        status = buffer.status()
        assert status.successful >= counts[0]
        assert status.failed >= counts[1]
        assert status.completed < 10_000
        assert (complete.total, complete.successful) == (10_000, status.successful)
        # The first call's terms hold, and the id is of the same buffer.
        assert client.start("fails", range(10_000), buffer_id="ends").existed
    assert ended_how(facts, "ends") == ("complete", how)


def test_a_buffer_ends_at_its_deadline_also_when_nobody_served_it_then(
    journal: Path, facts: Facts, starts: Starts
) -> None:
    with pace.bus.running(journal, workers=1) as client:
        client.start("rare", range(100), buffer_id="late", deadline=0.2)
        client.start("rare", range(100), buffer_id="later", deadline=1.0)
        client.buffer("late").wait(60)
        assert client.supervisor_pid is not None
        kill(client.supervisor_pid)
    until(lambda: facts.value("SELECT max(deadline_at) FROM buffer") < time.time() * 1000, "it is over")
    with pace.bus.running(journal, workers=1) as client:
        client.buffer("later").wait(60)
    assert ended_how(facts, "late") == ended_how(facts, "later") == ("complete", "deadline")


def test_nothing_of_a_buffer_starts_before_its_time(journal: Path, facts: Facts, starts: Starts) -> None:
    not_before = time.time() + 0.4
    with pace.bus.running(journal, workers=1) as client:
        buffer = client.start("free", range(10), buffer_id="waits", not_before=not_before)
        assert buffer.wait(60).successful == 10
    first = "SELECT min(committed_at) FROM dispatch JOIN journal_commit USING (commit_id)"
    assert facts.value(first) >= int(not_before * 1000)


@pytest.mark.slow
def test_an_urgent_buffer_goes_ahead_of_what_workers_hold_and_the_others_move_on(
    journal: Path, facts: Facts, starts: Starts
) -> None:
    given_back = (
        "SELECT count(*) FROM dispatch d JOIN buffer b USING (buffer_seq), buffer u "
        "WHERE b.buffer_id = 'many' AND u.buffer_id = ? AND d.ended_how = 'returned' "
        "AND d.ended_commit BETWEEN u.opened_commit AND u.ended_commit"
    )
    with pace.bus.running(journal, workers=1) as client:
        client.start("slow", range(20_000), buffer_id="many")
        facts.until_recorded("many", 100)

        def an_urgent_one_got_the_place_of_others() -> bool:
            """Two batches of 40 ms were in the worker's hands: what it had not begun it gives back for these.
            Not where it had begun all by then, as on a busy machine: so the next is started.
            """
            urgent = client.start("slow", range(10), priority=5)
            assert urgent.wait(60).successful == 10
            return bool(facts.value(given_back, urgent.buffer_id))

        until(an_urgent_one_got_the_place_of_others, "items were given back for those of an urgent buffer")
        facts.until_recorded("many", facts.recorded("many") + 100)
        client.cancel("many")
