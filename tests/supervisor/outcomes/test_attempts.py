"""When an attempt follows one that failed, and when there is none."""

from typing import Any

import pytest

from durable_bus.journal.work import Attempts, Failure
from durable_bus.payloads.messages import SECONDS_MAX
from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor.outcomes.attempts import (
    LOST_MAX,
    LOST_WITH_SUPERVISOR_MAX,
    RETURNS_MAX,
    RETURNS_MS_MAX,
    backoff_ms,
    next_attempt_at,
)

NOW_MS = 1_000_000
NEVER = Attempts(0, 0, 0, 0)
WHO = (1, 2)


def settings(attempts: int = 3, backoff_s: float = 0.0, **more: Any) -> ListenerSettings:
    return ListenerSettings("work", 1.0, attempts, backoff_s, 1, False, None, **more)


@pytest.mark.parametrize("kind", ["exception", "timeout"])
@pytest.mark.parametrize(
    ("charged", "attempts", "next_at"),
    [(0, 1, None), (0, 2, NOW_MS), (1, 2, None), (1, 3, NOW_MS), (2, 3, None), (998, 1000, NOW_MS)],
)
def test_exceptions_and_time_outs_are_tried_as_often_as_the_listener_says(
    kind: str, charged: int, attempts: int, next_at: int | None
) -> None:
    before = Attempts(charged, charged, 0, 0)
    found = next_attempt_at(Failure(kind, "why"), before, settings(attempts), NOW_MS, WHO)
    assert found == next_at


@pytest.mark.parametrize("kind", ["exception", "timeout"])
def test_without_the_listener_nothing_is_tried_again(kind: str) -> None:
    assert next_attempt_at(Failure(kind, "why"), NEVER, None, NOW_MS, WHO) is None


@pytest.mark.parametrize("kind", ["malformed", "answer", "routing", "unserialisable"])
@pytest.mark.parametrize("supervisor_died", [False, True])
def test_what_would_fail_again_is_not_tried_again(kind: str, supervisor_died: bool) -> None:
    assert (
        next_attempt_at(
            Failure(kind, "why", supervisor_died=supervisor_died), NEVER, settings(9), NOW_MS, WHO
        )
        is None
    )


@pytest.mark.parametrize("lost", range(LOST_MAX + 1))
@pytest.mark.parametrize("known", [True, False])
def test_the_death_of_a_worker_is_followed_by_another_attempt_alone_a_few_times(
    lost: int, known: bool
) -> None:
    before = Attempts(lost, 0, lost, 0)
    found = next_attempt_at(Failure("lost", "why"), before, settings(1) if known else None, NOW_MS, WHO)
    assert found == (0 if lost + 1 < LOST_MAX else None)


@pytest.mark.parametrize("lost", range(LOST_WITH_SUPERVISOR_MAX + 1))
def test_deaths_of_the_supervisor_are_counted_apart(lost: int) -> None:
    before = Attempts(lost + 2, 0, 2, lost)
    found = next_attempt_at(Failure("lost", "why", supervisor_died=True), before, None, NOW_MS, WHO)
    assert found == (0 if lost + 1 < LOST_WITH_SUPERVISOR_MAX else None)


def test_deaths_do_not_count_as_a_listeners_attempts() -> None:
    before = Attempts(5, 0, 2, 3)
    assert next_attempt_at(Failure("exception", "why"), before, settings(2), NOW_MS, WHO) == NOW_MS


@pytest.mark.parametrize(
    ("backoff_s", "charged", "ms"),
    [
        (0.0, 1, 0),
        (0.5, 1, 500),
        (0.5, 2, 1_000),
        (0.5, 3, 2_000),
        (1.0, 10, 512_000),
        (0.001, 31, 2**30),
        (0.001, 1000, 2**30),
        (1e9, 5, 1000 * SECONDS_MAX),
    ],
)
def test_each_attempt_waits_twice_as_long_as_the_one_before(backoff_s: float, charged: int, ms: int) -> None:
    assert backoff_ms(settings(backoff_s=backoff_s), charged, WHO) == ms
    before = Attempts(charged - 1, charged - 1, 0, 0)
    one = settings(2000, backoff_s)
    assert next_attempt_at(Failure("timeout", "why"), before, one, NOW_MS, WHO) == NOW_MS + ms


def test_a_wait_is_never_longer_than_the_listener_says() -> None:
    waits = [backoff_ms(settings(backoff_s=1.0, backoff_max_s=5.0), charged, WHO) for charged in range(1, 6)]
    assert waits == [1_000, 2_000, 4_000, 5_000, 5_000]


def test_jitter_leaves_out_at_most_its_share_of_a_wait_and_spreads_those_who_wait_together() -> None:
    one = settings(backoff_s=10.0, jitter=0.5)
    waits = [backoff_ms(one, 1, (1, index)) for index in range(1_000)]
    assert 5_000 <= min(waits) < 5_100
    assert 9_900 < max(waits) <= 10_000
    assert len(set(waits)) > 800
    assert waits == [backoff_ms(one, 1, (1, index)) for index in range(1_000)]  # a commit that is made again


def test_an_exception_that_is_not_to_be_retried_is_the_end() -> None:
    assert next_attempt_at(Failure("exception", "why", final=True), NEVER, settings(9), NOW_MS, WHO) is None


RETURN = Failure("retry_after", "why", after_s=2.5)


@pytest.mark.parametrize(
    ("after_s", "returns", "ms"),
    [(0.0, 0, 10), (0.0, 9, 100), (0.05, 2, 50), (0.05, 9, 100), (0.0, 99, 1_000), (0.0, 900, 1_000)],
)
def test_who_wants_to_come_back_at_once_waits_a_little_longer_each_time(
    after_s: float, returns: int, ms: int
) -> None:
    """It went round as fast as it could, a commit each time, a thousand times."""
    before = Attempts(returns, 0, 0, 0, returns, NOW_MS)
    at_once = Failure("retry_after", "why", after_s=after_s)
    assert next_attempt_at(at_once, before, None, NOW_MS, WHO) == NOW_MS + ms


def test_who_comes_back_by_retry_after_is_charged_nothing() -> None:
    assert next_attempt_at(RETURN, NEVER, settings(1), NOW_MS, WHO) == NOW_MS + 2_500
    after = Attempts(900, 0, 0, 0, returns=900, returning_since_ms=NOW_MS - 1)
    assert next_attempt_at(RETURN, after, settings(1), NOW_MS, WHO) == NOW_MS + 2_500
    assert next_attempt_at(Failure("exception", "why"), after, settings(2), NOW_MS, WHO) == NOW_MS


@pytest.mark.parametrize(
    ("returns", "since_ms"), [(RETURNS_MAX - 1, NOW_MS), (1, NOW_MS - RETURNS_MS_MAX)], ids=["often", "long"]
)
def test_who_comes_back_too_often_or_for_too_long_fails(returns: int, since_ms: int) -> None:
    before = Attempts(returns, 0, 0, 0, returns=returns, returning_since_ms=since_ms)
    assert next_attempt_at(RETURN, before, settings(9), NOW_MS, WHO) is None
    a_little_less = before._replace(returns=min(returns, RETURNS_MAX - 2), returning_since_ms=since_ms + 1)
    assert next_attempt_at(RETURN, a_little_less, settings(9), NOW_MS, WHO) == NOW_MS + 2_500
