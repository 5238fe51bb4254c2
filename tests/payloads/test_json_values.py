"""Values as JSON, one by one and many together: what is written comes back, and all else is refused."""

import contextlib
import datetime
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable_bus.payloads.json_values import (
    JSON_DEPTH_MAX,
    NotJson,
    dump_json,
    dump_json_lines,
    dump_plain_json,
    load_json,
)

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(exclude_categories=["Cs"]))
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
INTRUDERS: list[Any] = [
    math.nan, math.inf, -math.inf, {1}, frozenset("a"), set(), {1: "a"}, {None: 1}, {(1, 2): 3}, "\ud800",
    {"\udfff": 1},
]  # fmt: skip
REFUSALS = (NotJson, TypeError, UnicodeEncodeError)


def containers(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)

    return grown(st.recursive(leaf, grown, max_leaves=30))


def nested(value: Any, depth: int) -> Any:
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@unhurried
@given(st.lists(containers(leaves), min_size=1, max_size=5))
def test_what_is_written_comes_back_equal(values: list[Any]) -> None:
    lines = dump_json_lines(values)
    for value, line in zip(values, lines, strict=True):
        assert load_json(line) == value
        assert dump_json(value).encode() == line
        assert dump_plain_json(value) in (None, line)


@unhurried
@given(st.lists(containers(leaves | st.sampled_from(INTRUDERS)), min_size=1, max_size=3))
def test_one_and_many_are_refused_alike(values: list[Any]) -> None:
    refused = []
    for value in values:
        try:
            assert load_json(dump_json(value).encode()) == value
        except NotJson:
            refused.append(value)
            assert_refused_by_the_others(value)
    if refused:
        with pytest.raises(REFUSALS):
            dump_json_lines(values)


def assert_refused_by_the_others(value: Any) -> None:
    with pytest.raises(REFUSALS):
        dump_json_lines([{"fine": 1}, value])
    with contextlib.suppress(*REFUSALS):
        assert dump_plain_json(value) is None


@pytest.mark.parametrize("depth", [1, 3, 4, 5, 6, 7, 40])
@pytest.mark.parametrize("intruder", INTRUDERS, ids=repr)
def test_an_intruder_is_found_however_deep_it_is(intruder: Any, depth: int) -> None:
    value = nested(intruder, depth)
    with pytest.raises(NotJson):
        dump_json(value)
    assert_refused_by_the_others(value)


@pytest.mark.parametrize(
    "unusual", [(1, 2), datetime.date(2026, 1, 2), 2**70, -(2**63), 2**64, b"a"], ids=repr
)
def test_what_is_written_as_something_else_is_written(unusual: Any) -> None:
    text = dump_json({"a": [unusual]})
    assert dump_json_lines([{"a": [unusual]}, {}]) == [text.encode(), b"{}"]
    assert load_json(text.encode()) != {"a": []}


def test_depth_is_bounded_alike_for_one_and_many() -> None:
    allowed, too_deep = nested(1, JSON_DEPTH_MAX), nested(1, JSON_DEPTH_MAX + 1)
    assert dump_json_lines([allowed]) == [dump_json(allowed).encode()]
    for dump in (dump_json, dump_plain_json, lambda value: dump_json_lines([value])):
        with pytest.raises(NotJson):
            dump(too_deep)
