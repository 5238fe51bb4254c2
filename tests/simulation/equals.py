"""Items that equal others, and listeners that give an answer again to those that do."""

import random
from contextlib import ExitStack
from dataclasses import dataclass, replace
from unittest.mock import patch

import msgspec

from durable_bus.payloads.forms import TEXT, XML
from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor.scheduling import memo
from simulation.records import Content

__all__ = ["Equality", "equal_items", "other_memos", "with_memos"]

_VERSIONS = ("v1", "v2")


@dataclass(frozen=True)
class Equality:
    """Which listeners have a memo, and how often items are equal."""

    memos: dict[str, str]
    """The memo texts, by listener; none: nothing is ever given again."""
    items: float
    """How many items are made equal to another one."""
    other_memos: float
    """Per reload: its code has other memo texts."""
    looks_max: int
    held_max: int
    look_items_max: int
    """What the supervisor's `memo` has constants for."""

    @classmethod
    def draw(cls, rng: random.Random, listeners: list[str]) -> "Equality":
        has_memos = rng.random() < 0.6
        named = rng.sample(listeners, rng.randint(2, len(listeners)))
        return cls(
            memos={name: _VERSIONS[0] for name in named} if has_memos else {},
            items=rng.choice([0.3, 0.8, 0.8]) if has_memos else 0.0,
            other_memos=rng.choice([0.0, 0.5]),
            looks_max=rng.choice([1, 5, memo.LOOKS_MAX]),
            held_max=rng.choice([1, 4, memo.HELD_MAX, memo.HELD_MAX]),
            look_items_max=rng.choice([2, memo.LOOK_ITEMS_MAX]),
        )

    @classmethod
    def none(cls) -> "Equality":
        """Nothing is ever given again."""
        return cls({}, 0.0, 0.0, memo.LOOKS_MAX, memo.HELD_MAX, memo.LOOK_ITEMS_MAX)

    def constants(self) -> ExitStack:
        """A context in which the supervisor has them."""
        stack = ExitStack()
        for name in ("looks_max", "held_max", "look_items_max"):
            stack.enter_context(patch.object(memo, name.upper(), getattr(self, name)))
        return stack


def with_memos(listeners: dict[str, ListenerSettings], memos: dict[str, str]) -> dict[str, ListenerSettings]:
    return {
        name: msgspec.structs.replace(settings, memo=memos.get(name)) for name, settings in listeners.items()
    }


def other_memos(rng: random.Random, memos: dict[str, str]) -> dict[str, str]:
    """Of some listeners another text, of some none."""
    texts = {name: rng.choice([None, *_VERSIONS]) for name in memos}
    return {name: text for name, text in texts.items() if text is not None}


def equal_items(rng: random.Random, content: Content, others: list[Content], share: float) -> Content:
    """Some of the items become equal to others of the same buffer or of other ones, or are so but for their
    form. Half of the buffers go to where an earlier one has gone.
    """
    if not share:
        return content
    if others and rng.random() < 0.5:
        content = replace(content, target=rng.choice(others).target)
    found = [*zip(content.texts, content.forms, strict=True)]
    there = [pair for other in others for pair in zip(other.texts, other.forms, strict=True)] + found
    for position in range(len(found)):
        if rng.random() < share:
            text, form = found[position] = rng.choice(there[: len(there) - len(found) + position + 1])
            if rng.random() < 0.1:
                found[position] = text, {TEXT: XML, XML: TEXT}.get(form, form)
    return replace(content, texts=tuple(text for text, _ in found), forms=tuple(form for _, form in found))
