"""Terms of `Client.start` and `Client.stream`: a supervisor goes by them; they are part of no identity."""

from pathlib import Path

import pytest
from apps import paced
from support import Facts

from durable_bus.errors import BufferEnded, UsageError


@pytest.mark.slow
def test_a_start_has_the_terms_of_its_first_call(journal: Path, facts: Facts) -> None:
    with paced.bus.running(journal, workers=1) as client:
        first = client.start("check", ["a"], buffer_id="b", priority=4, enough=1, deadline=60)
        again = client.start("check", ["a"], buffer_id="b", priority=-4)
        assert (first.existed, again.existed) == (False, True)
        assert again.wait(60).successful == 1
        assert again.status().ended_how == "all"
        with pytest.raises(UsageError, match="enough=0"):
            client.start("check", ["a"], buffer_id="c", enough=0)
        with pytest.raises(UsageError, match="enough=0"):
            client.stream("check", buffer_id="c", enough=0)
    assert facts.rows("SELECT buffer_id, priority FROM buffers") == [("b", 4)]


@pytest.mark.slow
def test_a_stream_that_has_ended_by_its_terms_takes_no_more_items(journal: Path, facts: Facts) -> None:
    with paced.bus.running(journal, workers=1) as client:
        with pytest.raises(BufferEnded, match="enough"):
            with client.stream("check", buffer_id="b", enough=5, ahead=10) as buffer:
                while True:
                    buffer.put("good")
        assert buffer.wait(60).successful >= 5
        assert buffer.status().ended_how == "enough"
        with client.stream("check", buffer_id="b") as again:
            assert again.sealed


@pytest.mark.slow
def test_leaving_a_stream_that_has_ended_by_its_terms_is_no_error(journal: Path, facts: Facts) -> None:
    with paced.bus.running(journal, workers=1) as client:
        with client.stream("check", buffer_id="b", enough=1) as buffer:
            buffer.put("good")
            facts.until("SELECT ended_how = 'enough' FROM buffers")
        assert buffer.sealed
        assert buffer.wait(60).successful == 1


@pytest.mark.slow
def test_resuming_grants_a_budget_again(journal: Path, facts: Facts) -> None:
    with paced.bus.running(journal, workers=1) as client:
        buffer = client.start("pay", ["1"] * 60, buffer_id="b", budget={"usd": 20})
        facts.until("SELECT paused_why = 'budget' FROM buffers")
        with pytest.raises(UsageError, match="budget"):
            client.resume("b", budget={"usd": 0})
        client.resume("b", budget={"usd": 1000})
        assert buffer.wait(60).successful == 60
    assert facts.rows("SELECT sum(amount), count(*) FROM spending") == [(60.0, 60)]
