"""What handlers of the simulation are told, in every form that a payload can have."""

import base64
import json
import random

from durable_bus.payloads.forms import JSON, PICKLE, TEXT, XML

__all__ = ["some_form", "some_forms", "worded", "words_of"]


def some_form(rng: random.Random) -> int:
    return rng.choices([TEXT, XML, JSON, PICKLE], [5, 3, 3, 1])[0]


def some_forms(rng: random.Random, count: int) -> tuple[int, ...]:
    """Mostly of one form, as buffers are; each of its own in others."""
    if rng.random() < 0.5:
        return (some_form(rng),) * count
    return tuple(some_form(rng) for _ in range(count))


def worded(words: str, form: int) -> str:
    """The words as a payload of this form. The bus never looks inside, so a pickle need not be one."""
    if form == XML:
        return f"<i>{words}</i>"
    if form == JSON:
        return json.dumps(words, ensure_ascii=False)
    return base64.b64encode(words.encode()).decode() if form == PICKLE else words


def words_of(text: str, form: int) -> str:
    """The words of a payload that `worded` has made; what else is on its way as it is."""
    if form == JSON:
        return str(json.loads(text))
    if form == PICKLE:
        return base64.b64decode(text).decode()
    return text.removeprefix("<i>").removesuffix("</i>")
