"""Where the items of a start differ from those that the journal has under its id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from durable_bus.errors import DurableBusError
from durable_bus.payloads.forms import FORM_NAMES
from durable_bus.payloads.values import Payload, ValueWriter

__all__ = ["KeptItems", "first_difference"]

_KEPT_ITEMS_MAX = 10_000
_COMPARED_MAX = 200_000
"""Half a second: who asks wants to know what is wrong, and not to wait for it."""
_SHOWN_CHARS_MAX = 60


class KeptItems:
    """Items that can be looked at again: an iterator's first ones are kept as they go by."""

    def __init__(self, items: Iterable[object]) -> None:
        self._items = items
        self._first: list[object] | None = [] if isinstance(items, Iterator) else None
        self._whole = False

    def once(self) -> Iterable[object]:
        """All of them, to be gone through once."""
        return self._items if self._first is None else self._keeping(self._first)

    def _keeping(self, first: list[object]) -> Iterator[object]:
        for item in self._items:
            if len(first) < _KEPT_ITEMS_MAX:
                first.append(item)
            yield item
        self._whole = True

    def again(self) -> tuple[Iterable[object], bool]:
        """Those that can be looked at once more, and whether these are all."""
        if self._first is None:
            return self._items, True
        return self._first, self._whole and len(self._first) < _KEPT_ITEMS_MAX


def first_difference(recorded: Iterable[object], given: KeptItems, writer: ValueWriter) -> str:
    """The first index at which they differ, and what to do, as the end of a sentence."""
    items, are_all = given.again()
    ended = object()
    theirs, ours = chain(recorded, [ended]), chain(items, [ended])
    for index, (before, now) in enumerate(zip(theirs, ours, strict=False)):
        if index == _COMPARED_MAX or (now is ended and not are_all):
            return f": the first {index:,} are the same"
        was = None if before is ended else _written(writer, before)
        got = None if now is ended else _written(writer, now)
        if was is None and got is None:
            break
        if was != got:
            return (
                f": item {index} was {_shown(was)}, and is {_shown(got)}; give other items another buffer_id"
            )
    return ""


def _written(writer: ValueWriter, item: object) -> Payload | str:
    try:
        return writer.item(item)
    except DurableBusError as error:
        return str(error)


def _shown(payload: Payload | str | None) -> str:
    if payload is None:
        return "not there"
    if isinstance(payload, str):
        return f"none ({payload})"
    text, form = payload
    shown = text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "…"
    return f"the {FORM_NAMES[form]} {shown!r}"
