"""Limits as functions of values: what may start when, and that no window ever has more."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from durable_bus.payloads.rates import burst
from durable_bus.payloads.settings import LimitSettings
from durable_bus.supervisor.scheduling.limits import (
    GATHER_S,
    Held,
    Limit,
    charged,
    free,
    free_in_s,
    grown,
    restarted,
    rested,
    slower,
)

NOTHING = Held()


def limit(rate: str | None = None, running: int | None = None, *, full: bool = True) -> Limit:
    one = Limit(LimitSettings("one", rate, running), rate, running)
    return replace(one, tokens=burst(one.per_s)) if full and one.per_s is not None else one


# ---- how much may start


@pytest.mark.parametrize(
    ("rate", "running", "held", "count"),
    [
        (None, 5, NOTHING, 5),
        (None, 5, Held(3, 1), 2),
        (None, 5, Held(7, 0), 0),
        ("20/s", None, NOTHING, 10),
        ("20/s", None, Held(500, 0), 10),
        ("20/s", None, Held(4, 4), 6),
        ("20/s", 8, Held(4, 4), 4),
        ("20/s", 12, Held(4, 0), 8),
        ("6/min", None, NOTHING, 1),
    ],
)
def test_a_full_bucket_lets_through_half_a_second_and_what_is_in_hand_counts(
    rate: str | None, running: int | None, held: Held, count: int
) -> None:
    assert free(limit(rate, running), held, 100.0) == count


def test_what_has_begun_takes_tokens_and_time_brings_them_back() -> None:
    one = charged(limit("20/s"), 10, 100.0)
    assert free(one, NOTHING, 100.0) == 0
    assert free(one, NOTHING, 100.25) == 5
    assert free(one, NOTHING, 500.0) == 10  # no more than a bucketful


def test_a_rest_lets_nothing_through_and_a_shorter_one_does_not_end_it() -> None:
    one = rested(rested(limit("20/s"), 5.0, 100.0, 7_000), 1.0, 101.0, 8_000)
    assert free(one, NOTHING, 104.9) == 0
    assert one.rests_until_ms == 12_000
    assert free_in_s(one, NOTHING, 101.0) == pytest.approx(4.0)
    assert free(one, NOTHING, 105.0) == 10


def test_it_is_said_when_something_may_start_again() -> None:
    empty = charged(limit("20/s"), 10, 100.0)
    wait_s = free_in_s(empty, NOTHING, 100.0)
    assert wait_s == pytest.approx(0.05)
    assert free(empty, NOTHING, 100.0 + wait_s) == 1
    assert free_in_s(limit(None, 2), Held(2, 0), 100.0) is None  # an answer makes room, not time


def test_tokens_are_handed_out_in_lots_and_never_later_than_said() -> None:
    one = replace(charged(limit("1000/s"), 500, 100.0), handed_out_s=100.0)
    assert free(one, NOTHING, 100.01) == 0  # ten would be there
    wait_s = free_in_s(one, NOTHING, 100.0)
    assert wait_s == pytest.approx(GATHER_S)
    assert free(one, NOTHING, 100.0 + wait_s) == 20


# ---- whatever happens


@settings(deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["3/s", "50/s", "500/s", "90/min", "0.5/s"]))
def test_no_window_has_more_than_the_contract_allows_however_late_work_begins_and_whoever_dies(
    seed: int, rate: str
) -> None:
    """Hand out all that is free, begin it whenever, forget everything in memory now and then."""
    rng = random.Random(seed)
    one, now_s = limit(rate), 0.0
    per_s = one.per_s
    assert per_s is not None
    begun_at: list[float] = []
    not_begun = unseen = 0
    """In hand, and begun since the supervisor has looked last."""
    written = (one.tokens, not_begun, now_s)
    for _ in range(400):
        now_s += rng.expovariate(per_s / 3) if rng.random() < 0.9 else rng.random() * 3
        for _ in range(rng.randint(0, not_begun - unseen)):
            unseen += 1
            begun_at.append(now_s)
        if rng.random() < 0.6:
            one = charged(one, unseen, now_s)
            not_begun, unseen = not_begun - unseen, 0
        count = free(one, Held(not_begun, not_begun), now_s) or 0
        if count:
            not_begun += count
            one = replace(one, handed_out_s=now_s)
            written = (one.tokens_now(now_s), not_begun, now_s)
        if rng.random() < 0.03:  # the supervisor dies, and its workers with it, at the worst moment
            begun_at += [now_s] * (not_begun - unseen)
            tokens, was_not_begun, at_s = written
            one = restarted(limit(rate, full=False), tokens, was_not_begun, now_s - at_s, now_s)
            not_begun = unseen = 0
            written = (one.tokens_now(now_s), 0, now_s)
    # In a window from the i-th to the j-th start are j - i + 1, and allowed are rate times its length and one
    # bucketful: the largest excess is one pass.
    lowest = 0.0
    for count, begin_s in enumerate(begun_at):
        ahead = count - per_s * begin_s
        lowest = min(lowest, ahead) if count else ahead
        assert ahead - lowest + 1 <= burst(per_s) + 0.001


def test_what_begins_in_the_place_of_what_has_begun_is_written() -> None:
    """As many are in hand as before, and none more has not begun: the next run would know of half of them."""
    one = replace(limit("10/s"), written=(1, 1))
    assert one.is_covered(Held(1, 1))
    assert charged(one, 1, 100.0).is_covered(Held(1, 0))
    assert not charged(one, 1, 100.0).is_covered(Held(1, 1))


def test_a_rest_is_written_though_nothing_of_its_limit_is_in_hand() -> None:
    """A handler may call for the rest of a limit that its own listener is not under."""
    assert not rested(limit("10/s"), 1.0, 100.0, 7_000).is_covered(NOTHING)


# ---- adaptive


def adaptive(allowed: float, running: int = 40) -> Limit:
    return Limit(LimitSettings("one", None, running, adaptive=True), None, running, allowed=allowed)


def test_too_many_means_a_fifth_less_at_most_once_a_second_and_never_none() -> None:
    one = slower(adaptive(40.0), 100.0)
    assert one.most == 32
    assert slower(one, 100.9).most == 32
    assert slower(one, 101.0).most == 25
    assert slower(adaptive(1.0), 100.0).most == 1
    assert slower(limit(None, 5), 100.0).most == 5  # it is not adaptive


def test_more_is_allowed_only_where_all_that_is_allowed_is_used_and_something_succeeds() -> None:
    one = replace(adaptive(20.0), has_succeeded=True, grown_s=100.0)
    assert grown(one, Held(20, 0), 100.3).allowed == pytest.approx(20 + 4 / 8**3)
    assert grown(one, Held(20, 0), 100.2).allowed == 20
    assert grown(one, Held(19, 0), 100.3).allowed == 20
    assert grown(replace(one, has_succeeded=False), Held(20, 0), 100.3).allowed == 20
    assert grown(replace(adaptive(40.0), has_succeeded=True), Held(40, 0), 100.3).allowed == 40
    refused = slower(replace(one, slowed_s=100.2), 100.25)
    assert grown(replace(refused, has_succeeded=True), Held(20, 0), 100.4).allowed == 20


def test_it_comes_back_to_what_was_too_many_fast_stays_near_that_and_then_leaves_it_faster_and_faster() -> (
    None
):
    one, now_s = slower(adaptive(100.0, 1_000), 100.0), 100.0
    allowed = [one.allowed]
    for _ in range(22):
        now_s += 0.25
        one = grown(replace(one, has_succeeded=True), Held(one.most or 0, 0), now_s)
        allowed.append(one.allowed)
    assert [round(allowed[step] or 0) for step in (0, 1, 4, 8, 12, 16, 22)] == [
        80,
        87,
        98,
        100,
        102,
        120,
        207,
    ]
    at_most = replace(one, allowed=1_000.0, has_succeeded=True)
    assert grown(at_most, Held(1_000, 0), now_s + 1).steps == one.steps  # or more would be allowed at a jump


@pytest.mark.parametrize("most", [10, 40, 1_000])
def test_it_follows_a_service_that_halves_and_doubles_within_ten_seconds(most: int) -> None:
    one, now_s = adaptive(float(most), most), 0.0
    for share in (1.0, 0.5, 1.0, 0.25, 0.5, 1.0):
        capacity, used = int(most * share), 0.0
        for step in range(200):
            now_s += 0.1
            in_hand = one.most or 0
            one = replace(one, has_succeeded=True)
            if in_hand > capacity:
                one = slower(one, now_s)
            one = grown(one, Held(in_hand, 0), now_s)
            used += min(in_hand, capacity) * (step >= 100)
        assert 0.93 <= used / 100 / capacity <= 1
