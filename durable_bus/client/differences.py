"""Where the items of a start differ from those that the journal has under its id."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

from durable_bus.payloads.forms import FORM_NAMES
from durable_bus.payloads.values import Payload

__all__ = ["first_difference"]

_COMPARED_MAX = 200_000
"""Half a second: who asks wants to know what is wrong, and not to wait for it."""
_SHOWN_CHARS_MAX = 60


def first_difference(
    recorded: Iterable[Payload], given: Iterable[Payload], *, all_given: bool = True, first_index: int = 0
) -> str:
    """The first index at which they differ, and what to do, as the end of a sentence.

    `all_given`: more items than these may have been given if not, but were seen once only. `first_index`:
    that of the first of them.
    """
    for index, (before, now) in enumerate(zip_longest(recorded, given), first_index):
        if index - first_index == _COMPARED_MAX or (now is None and not all_given):
            return f": the first {index:,} are the same; give other items another buffer_id"
        if before != now:
            return (
                f": item {index} was {_shown(before)}, and is {_shown(now)}; give other items another "
                "buffer_id"
            )
    return ""


def _shown(payload: Payload | None) -> str:
    if payload is None:
        return "not there"
    text, form = payload
    shown = text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "…"
    return f"the {FORM_NAMES[form]} {shown!r}"
