"""Values that come back equal and of the same type, as `durable_bus.map` promises: text and JSON where that
holds, else a pickle.

What a `ValueWriter` writes may come back as something else: a tuple as a list, a str that begins with `<` as
an element, an enum as its value. Nothing of that happens here.
"""

from __future__ import annotations

import math
from typing import Any, Final

from durable_bus.payloads.forms import JSON, TEXT
from durable_bus.payloads.json_values import NotJson, dump_json
from durable_bus.payloads.messages import Json, Pickled, RawJson, Text
from durable_bus.payloads.values import Payload, ValueWriter, pickled, refused_answer
from durable_bus.payloads.xml_reading import BEFORE_XML, PAYLOAD_BYTES_MAX, guess_is_xml

__all__ = ["exact_answer", "exact_texts"]

_INT_MAX: Final = (1 << 63) - 1
"""The largest that every reader of JSON here reads as it was."""
_CHARS_MAX: Final = PAYLOAD_BYTES_MAX // 4
"""A str of so many characters is not too long, whatever they are."""
_AS_THEY_ARE: Final = frozenset((str, bool, type(None)))


def _is_json(value: object) -> bool:
    """Whether JSON gives it back as it is."""
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return True
    if kind is int:
        return -_INT_MAX <= value <= _INT_MAX  # type: ignore[operator]
    if kind is float:
        return math.isfinite(value)  # type: ignore[arg-type]
    if kind is list:
        return all(map(_is_json, value))  # type: ignore[call-overload]
    if kind is dict:
        return {*map(type, value)} <= {str} and all(map(_is_json, value.values()))  # type: ignore[call-overload,attr-defined]
    return False


def _is_text(value: str) -> bool:
    """Whether the journal can hold it: it has neither NUL nor half a surrogate pair."""
    if value.isascii():  # 0.06 us for 88 characters; `isprintable`, which looks at each, takes 0.37
        return "\0" not in value
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _said(value: object) -> Text | Json | Pickled:
    """The value, in the form that gives it back. Raises whatever pickling it raises."""
    if type(value) is str and _is_text(value):
        return Text(value)
    try:
        if type(value) is not str and _is_json(value):
            return Json(RawJson(dump_json(value), is_compact=True))
    except (NotJson, RecursionError):
        pass
    return Pickled(pickled(value))


def exact_answer(value: object) -> object:
    """What a handler returns so that its answer is this value. Raises UnserialisableAnswer, with its repr."""
    if type(value) is str and value[:1] not in BEFORE_XML and value.isascii() and "\0" not in value:
        return value  # as `_as_answer` says of it
    try:
        return _as_answer(value)
    except BaseException as error:  # pickling runs code of the value's, which may even exit
        raise refused_answer(value, error) from None


def _as_answer(value: object) -> object:
    kind = type(value)
    if kind is str:
        return _said(value) if guess_is_xml(value) or not _is_text(value) else value  # type: ignore[arg-type]
    if kind is bool or ((kind is int or kind is float) and _is_json(value)):
        return value
    return _said(value)


def exact_texts(writer: ValueWriter, values: list[Any]) -> tuple[list[str], bytes]:
    """Items as texts, and the form of each, a byte. Raises as `ValueWriter.item` does, and whatever pickling
    one of them raises. Those of one plain type are written together: 0.1 µs each instead of 1.
    """
    kinds = set(map(type, values))
    if kinds == {str} and max(map(len, values)) <= _CHARS_MAX and all(map(_is_text, values)):
        return values, bytes([TEXT]) * len(values)
    if kinds == {int} and max(values) <= _INT_MAX and min(values) >= -_INT_MAX:
        return list(map(str, values)), bytes([JSON]) * len(values)
    pairs: list[Payload] = [writer.item(_said(value)) for value in values]
    return [text for text, _ in pairs], bytes([form for _, form in pairs])
