"""Values on their way out, in the form that is theirs: answers of handlers, items and messages of clients.

`README.md` has the table of values and forms. What leaves a handler wrongly is UnserialisableAnswer, which
becomes a failed result; what a client gives wrongly is UsageError, and nothing is written then.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from typing import Any, Final, Self

import msgspec
from lxml import etree

from durable_bus.errors import (
    BufferError,
    LimitExceeded,
    MalformedItem,
    UnserialisableAnswer,
    UsageError,
    encodable,
    said,
)
from durable_bus.payloads.forms import JSON, PICKLE, TEXT, XML
from durable_bus.payloads.json_values import NotJson, compact_json, dump_json, dump_plain_json, is_model
from durable_bus.payloads.messages import (
    BufferComplete,
    BufferDispatched,
    BufferItem,
    BufferStart,
    Huh,
    Json,
    Pickled,
    RawJson,
    SystemError,
    Text,
    Xml,
)
from durable_bus.payloads.settings import ValueForms
from durable_bus.payloads.xml_reading import PAYLOAD_BYTES_MAX, guess_is_xml, parse, without_declaration
from durable_bus.payloads.xml_writing import dump_dataclass, dump_element, xml_of_answer

__all__ = ["ANSWER_REPR_BYTES_MAX", "Payload", "ValueWriter", "pickled", "quick_answer", "refused_answer"]

Payload = tuple[str, int]
"""A text and its form (`payloads.forms`)."""

ANSWER_REPR_BYTES_MAX: Final = 64 * 1024
"""So much of the repr of an answer that cannot be written is kept, in bytes of UTF-8."""

_JSON_TYPES: Final = (dict, list, tuple, int, float, msgspec.Struct)
_OWN: Final = (SystemError, Huh, BufferError, BufferStart, BufferItem, BufferComplete, BufferDispatched)
"""Dataclasses of the bus itself are XML on every bus: a failed result is read by everybody."""
_NOT_SUCCESSFUL: Final = (Huh, SystemError, BufferError)


def _checked(text: str) -> str:
    """The text. Raises UnserialisableAnswer for one that cannot be in the journal, LimitExceeded for a long
    one.
    """
    if "\0" in text:  # SQLite's text functions end at NUL without a word
        raise UnserialisableAnswer(f"a text with a NUL character, at position {text.index(chr(0))}")
    if len(text) * 4 > PAYLOAD_BYTES_MAX or not text.isascii():
        try:
            size_bytes = len(text.encode())
        except UnicodeEncodeError as error:
            raise UnserialisableAnswer(f"a lone surrogate at position {error.start}") from None
        if size_bytes > PAYLOAD_BYTES_MAX:
            raise LimitExceeded(f"{size_bytes} bytes, more than {PAYLOAD_BYTES_MAX}")
    return text


def _of_str(value: str) -> Payload:
    """XML where it is one well-formed element, else text: a str that a handler has worked for is never
    refused for what it looks like.
    """
    text = _checked(value)
    if guess_is_xml(text):
        try:
            return xml_of_answer(text), XML
        except UnserialisableAnswer:
            pass
    return text, TEXT


def _of_xml(value: Xml) -> Payload:
    return xml_of_answer(_checked(str.__str__(value.text))), XML


def _of_json(value: object) -> Payload:
    try:
        text = dump_json(value)
    except NotJson as error:
        raise UnserialisableAnswer(str(error)) from None
    return text if len(text) * 4 <= PAYLOAD_BYTES_MAX else _checked(text), JSON


def _of_said_json(value: Json) -> Payload:
    inner = value.value
    try:
        if isinstance(inner, RawJson):
            text = inner.text if inner.is_compact else compact_json(str.__str__(inner.text))
        else:
            text = dump_json(inner)
    except NotJson as error:
        raise UnserialisableAnswer(str(error)) from None
    return _checked(text), JSON


def pickled(value: object) -> str:
    """Base64 of its pickle. Raises whatever pickling it raises."""
    import pickle

    return base64.b64encode(pickle.dumps(value, protocol=5)).decode()


def _of_pickle(value: object) -> Payload:
    return _checked(pickled(value)), PICKLE


_WRITERS: Final[dict[type, Callable[[Any], Payload]]] = {
    type(None): lambda value: ("", TEXT),
    str: _of_str,
    Text: lambda value: (_checked(str.__str__(value.text)), TEXT),
    Xml: _of_xml,
    Json: _of_said_json,
    Pickled: lambda value: (_checked(str.__str__(value.text)), PICKLE),
    etree._Element: lambda value: (dump_element(value), XML),
    dict: _of_json,
    list: _of_json,
    tuple: _of_json,
    int: _of_json,
    float: _of_json,
    bool: _of_json,
}
"""By the exact type: these are written alike on every bus, and say nothing of where they go. Models, and what
else `_unusual` finds to be JSON, join them when the first of their type is written.
"""


def _quick_element(value: etree._Element) -> tuple[bytes, int]:
    return dump_element(value).encode(), XML


def _quick_json(value: object) -> tuple[bytes, int] | None:
    data = dump_plain_json(value)
    return None if data is None or len(data) > PAYLOAD_BYTES_MAX else (data, JSON)


_QUICK: Final[dict[type, Callable[[Any], tuple[bytes, int] | None]]] = {
    etree._Element: _quick_element,
    dict: _quick_json,
    list: _quick_json,
}
"""Of what handlers answer most."""


def quick_answer(value: object) -> tuple[bytes, int] | None:
    """A handler's answer whose type says how it is written, in UTF-8, and its form. None for any other, and
    for one that cannot be written: `ValueWriter` finds out more. 0.5 µs less than to ask that. Never raises.
    """
    kind = type(value)
    try:
        if (quick := _QUICK.get(kind)) is not None:
            return quick(value)
        if (write := _WRITERS.get(kind)) is None:
            return None
        text, form = write(value)
    except BaseException:  # of an object inside a dict or list, whose code may even exit
        return None
    return text.encode(), form


class ValueWriter:
    """Writes the values of one bus."""

    def __init__(self, forms: Callable[[], ValueForms]) -> None:
        """`forms`: what the bus says, asked only for a value whose type does not say its form: a client may
        have to wait for a worker that can tell.
        """
        self._forms = forms

    def in_answer_to(self, form: int) -> Self:
        """A writer of answers to a payload of this form: a dataclass that answers JSON is JSON."""
        if form != JSON:
            return self
        return type(self)(lambda: msgspec.structs.replace(self._forms(), form="json"))

    def answer(self, value: object) -> Payload:
        """A handler's answer. None is the empty text.

        Raises UnserialisableAnswer and nothing else, with the value's repr: for a type without a form, for
        more than 8 MiB, NUL, a lone surrogate; for what JSON cannot hold; for Xml that is not one element, or
        is so deep that it could not stand in a results document.
        """
        try:
            return (_WRITERS.get(type(value)) or self._unusual)(value)
        except BaseException as error:  # properties and subclasses are the handler's code; it may even exit
            raise refused_answer(value, error) from None

    def outcome(self, value: object) -> tuple[str, int, bool]:
        """An answer, and whether it is a success. Raises UnserialisableAnswer."""
        text, form = self.answer(value)
        return text, form, not isinstance(value, _NOT_SUCCESSFUL)

    def item(self, value: object) -> Payload:
        """An item. None is JSON's null; str, Text and Xml are not parsed: a malformed one becomes a failed
        item, never a refused buffer.

        Raises UsageError for a value without a form, for one that JSON cannot hold or whose own code fails,
        for NUL and for lone surrogates; LimitExceeded for more than 8 MiB.
        """
        try:
            if value is None:
                return "null", JSON
            if isinstance(value, (Text, Xml)):
                return _checked(str.__str__(value.text)), XML if isinstance(value, Xml) else TEXT
            if isinstance(value, str):
                text = _checked(str.__str__(value))
                return text, XML if guess_is_xml(text) else TEXT
            return (_WRITERS.get(type(value)) or self._unusual)(value)
        except LimitExceeded:
            raise
        except Exception as error:  # also of the item's own code, such as a property
            raise UsageError(f"it cannot be journaled: {_why(value, error)}") from None

    def message(self, value: object) -> Payload:
        """What a client sends. As `item`, but XML must be well-formed, and a declaration before it is
        dropped: whoever receives it must be able to parse it, and between clients nobody stands who could
        make a failed result of it. Raises as `item` does, and UsageError for XML that is not one element.
        """
        text, form = self.item(value)
        if form != XML:
            return text, form
        try:
            parse(text)
        except MalformedItem as error:
            raise UsageError(f"the message is not one XML element: {error}") from None
        return without_declaration(text), XML

    def _unusual(self, value: object) -> Payload:
        """Subclasses, dataclasses, models, and all that has no form."""
        kind = type(value)
        if isinstance(value, str):
            return _of_str(str.__str__(value))
        if isinstance(value, etree._Element):
            if not isinstance(value.tag, str):
                raise UnserialisableAnswer("a comment, processing instruction or entity is no element")
            return dump_element(value), XML
        if isinstance(value, _JSON_TYPES) or is_model(kind):
            _WRITERS[kind] = _of_json
            return _of_json(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            if not isinstance(value, _OWN) and self._forms().form == "json":
                return _of_json(value)
            return dump_dataclass(value), XML
        if self._forms().pickle:
            return _of_pickle(value)
        raise UnserialisableAnswer(
            f"{kind.__name__} has no form: give None, str, a JSON value (dict, list, int, float, bool), a "
            "pydantic model, a msgspec Struct, a dataclass, an lxml element, Text, Xml or Json; or make the "
            "bus with Bus(name, pickle=True)"
        )


def refused_answer(value: object, error: BaseException) -> UnserialisableAnswer:
    """What to raise for an answer that could not be written, with its repr."""
    refused = UnserialisableAnswer(f"the answer cannot be written: {_why(value, error)}")
    refused.answer = _repr_of(value)
    return refused


def _why(value: object, error: BaseException) -> str:
    """Why a value cannot be written. What did not come of us names the value's type and the error's."""
    if isinstance(error, (LimitExceeded, UnserialisableAnswer)):
        return said(error)
    return f"{type(value).__name__}: {type(error).__name__}: {said(error)}"


def _repr_of(value: object) -> str:
    """At most ANSWER_REPR_BYTES_MAX of a value's repr; whatever its code does."""
    try:
        text = encodable(repr(value))
    except BaseException as error:
        return f"(its repr fails: {type(error).__name__}: {said(error)})"
    return text.encode()[:ANSWER_REPR_BYTES_MAX].decode(errors="ignore")
