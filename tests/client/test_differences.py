"""Where items differ from those that are recorded."""

import pytest

from durable_bus.client import differences


def test_an_item_far_behind_is_named_where_one_begins_to_compare_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was compared before does not count: somebody else has done that."""
    monkeypatch.setattr(differences, "_COMPARED_MAX", 10)
    recorded, given = [("a", 0), ("b", 0), ("c", 0)], [("a", 0), ("b", 0), ("x", 0)]
    said = differences.first_difference(recorded, given, first_index=9)
    assert said.startswith(": item 11 was the text 'c', and is the text 'x'")


def test_after_very_many_it_says_that_these_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "_COMPARED_MAX", 2)
    alike = [("a", 0)] * 3
    assert differences.first_difference(alike, alike).startswith(": the first 2 are the same")
