"""Values on their way out, as XML or text: answers of handlers, items and messages of clients, errors.

What leaves a handler wrongly is UnserialisableAnswer, which becomes a failed result. Whatever is written here
can stand in the results document, which therefore can always be rendered. `_dump_element` names the one case
that is not seen.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Final

from lxml import etree

from durable_bus.errors import LimitExceeded, MalformedItem, UnserialisableAnswer, UsageError, one_line, said
from durable_bus.payloads.characters import first_unrepresentable, is_representable, representable
from durable_bus.payloads.dataclass_xml import codec_of
from durable_bus.payloads.messages import SystemError, Text, Xml
from durable_bus.payloads.xml_reading import (
    PARSER,
    PAYLOAD_BYTES_MAX,
    XML_DEPTH_MAX,
    guess_is_xml,
    is_deeper,
    parse,
    without_declaration,
)

__all__ = ["dump", "dump_item", "dump_message", "dumper", "error_payload", "to_element"]

_RESULTS_DEPTH: Final = 2  # <results><item> around every answer
_NESTED_CHARS_MIN: Final = 7  # <a></a>: a text with fewer characters a level is not that deep
_DEFAULT_PARSER: Final = etree.get_default_parser()  # what etree.Element() says made it
_ENTITY = re.compile("&(?!amp;|lt;|gt;|quot;|#)")  # libxml2 itself writes no other reference


def _check_answer(text: str) -> None:
    """Raise UnserialisableAnswer unless size and characters allow the text in a document."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise UnserialisableAnswer(f"the answer cannot be in XML: {first_unrepresentable(text)}") from None
    if len(data) > PAYLOAD_BYTES_MAX:
        raise UnserialisableAnswer(f"an answer of {len(data)} bytes, more than {PAYLOAD_BYTES_MAX}")
    if not is_representable(text, data):
        raise UnserialisableAnswer(f"the answer cannot be in XML: {first_unrepresentable(text)}")


def _check_xml_answer(text: str, is_well_formed: bool) -> None:
    """Raise UnserialisableAnswer unless the XML can stand in a results document; parse it only in doubt."""
    depth_max = XML_DEPTH_MAX - _RESULTS_DEPTH
    is_deep = text.count("</") >= depth_max
    if is_well_formed and not is_deep:
        return
    try:
        root = parse(text)
    except MalformedItem as error:
        raise UnserialisableAnswer(f"the answer is not one XML element: {error}") from None
    if is_deep and is_deeper(root, depth_max):
        raise UnserialisableAnswer(f"elements nested deeper than {depth_max}")


def _dump_str(value: str) -> tuple[str, bool]:
    return _dump_xml_text(value) if guess_is_xml(value) else _dump_plain(value)


def _dump_plain(text: str) -> tuple[str, bool]:
    _check_answer(text)
    return text, False


def _dump_xml_text(text: str) -> tuple[str, bool]:
    _check_answer(text)
    _check_xml_answer(text, is_well_formed=False)
    return without_declaration(text), True


def _dump_element(value: etree._Element) -> tuple[str, bool]:
    text = etree.tostring(value, encoding=str, with_tail=False)
    # A tree of an HTML or recovering parser may hold names that no XML parser takes (`@click`), and one of
    # any other parser entity references; both are parsed again. What was moved out of an HTML tree into one
    # of ours is not noticed: that would cost every honest answer a second parse, half as much again as the
    # whole item.
    parser = value.getroottree().parser
    may_be_deep = len(text) > _NESTED_CHARS_MIN * (XML_DEPTH_MAX - _RESULTS_DEPTH)
    if parser is not PARSER or may_be_deep or "&" in text:
        is_ours = (parser is PARSER or parser is _DEFAULT_PARSER) and not _ENTITY.search(text)
        if not is_ours or len(text) * 4 > PAYLOAD_BYTES_MAX:
            _check_answer(text)
        if not is_ours or may_be_deep:
            _check_xml_answer(text, is_ours)
    return text, True


def _dump_dataclass(value: object) -> tuple[str, bool]:
    try:
        codec = codec_of(type(value))
    except (UsageError, NameError) as error:
        raise UnserialisableAnswer(f"{type(value).__name__} has no XML form: {error}") from None
    text = codec.dump(value)
    _check_answer(text)
    _check_xml_answer(text, not codec.holds_elements)
    return text, True


def _dump_unusual(value: object) -> tuple[str, bool]:
    """Subclasses, dataclasses, and all that has no form."""
    if isinstance(value, str):
        return _dump_str(str.__str__(value))
    if isinstance(value, etree._Element):
        if not isinstance(value.tag, str):
            raise UnserialisableAnswer(
                "a comment, processing instruction or entity is no answer; answer an element"
            )
        return _dump_element(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _dump_dataclass(value)
    raise UnserialisableAnswer(
        f"{type(value).__name__} is no answer; answer None, str, Text, Xml, an element or a dataclass"
    )


_DUMP: Final[dict[type, Callable[[Any], tuple[str, bool]]]] = {
    type(None): lambda value: ("", False),
    str: _dump_str,
    Text: lambda value: _dump_plain(str.__str__(value.text)),
    Xml: lambda value: _dump_xml_text(str.__str__(value.text)),
    etree._Element: _dump_element,
}
_NEVER_RAISE_OTHERS: Final = (type(None), str, etree._Element)
"""No attribute of theirs is a handler's code: writing them raises UnserialisableAnswer, or nothing."""


def dump(value: object) -> tuple[str, bool]:
    """A handler's answer as payload: `(text, is_xml)`.

    None is the empty text. str is XML if it looks like it, and must then be; Text and Xml say it outright.
    Elements are written without tail. A text keeps every character; XML too, but for a declaration before it.

    Raises UnserialisableAnswer and nothing else: for another type, too many bytes, a character that XML 1.0
    cannot hold (also in text, or the results document could never be rendered), XML that is not one element
    or is so deep that it could not stand two levels down in that document.
    """
    try:
        return _DUMP.get(type(value), _dump_unusual)(value)
    except UnserialisableAnswer:
        raise
    except BaseException as error:  # properties and subclasses are the handler's code; it may even exit
        name, why = type(value).__name__, type(error).__name__
        raise UnserialisableAnswer(f"{name} cannot be written: {why}: {said(error)}") from error


def dumper(kind: type) -> Callable[[Any], tuple[str, bool]]:
    """`dump` for answers of this very type, found once for many: 0.05 of 2.6 µs (111 characters)."""
    return _DUMP[kind] if kind in _NEVER_RAISE_OTHERS else dump


def dump_item(value: object) -> tuple[str, bool]:
    """An item as payload: `(text, is_xml)`, by the same forms as `dump`; None is no item.

    str, Text and Xml are not validated: a malformed one becomes a failed item, never a refused buffer.

    Raises UsageError for another type, for NUL and for lone surrogates, LimitExceeded for too many bytes.
    """
    if isinstance(value, (Text, Xml)):
        text, is_xml = str.__str__(value.text), isinstance(value, Xml)
    elif isinstance(value, str):
        text = str.__str__(value)
        is_xml = guess_is_xml(text)
    elif value is None:
        raise UsageError("None is no item")
    else:
        try:
            text, is_xml = dump(value)
        except UnserialisableAnswer as error:
            raise UsageError(f"not an item: {error}") from None
    if "\0" in text:  # SQLite's JSON functions end a text at NUL without a word
        raise UsageError("an item with a NUL character cannot be journaled")
    if len(text) * 4 > PAYLOAD_BYTES_MAX or not text.isascii():
        try:
            size_bytes = len(text.encode())
        except UnicodeEncodeError:
            raise UsageError("an item with a lone surrogate cannot be journaled") from None
        if size_bytes > PAYLOAD_BYTES_MAX:
            raise LimitExceeded(f"an item of {size_bytes} bytes, more than {PAYLOAD_BYTES_MAX}")
    return text, is_xml


def dump_message(value: object) -> tuple[str, bool]:
    """What a client sends, as payload: `(text, is_xml)`, by the same forms as `dump_item`.

    Its XML is validated, and a declaration before it dropped: whoever receives it must be able to parse it,
    and between clients nobody stands who could make a failed result of it.

    Raises as `dump_item` does, and UsageError for XML that is not one element.
    """
    text, is_xml = dump_item(value)
    if not is_xml:
        return text, False
    try:
        parse(text)
    except MalformedItem as error:
        raise UsageError(f"the message is not one XML element: {error}") from None
    return without_declaration(text), True


def to_element(payload: object) -> etree._Element:
    """A payload dataclass as its element. Raises UnserialisableAnswer where it has none."""
    return parse(_dump_dataclass(payload)[0])


def error_payload(code: str, message: str, retry_allowed: bool = False) -> str:
    """A SystemError as XML, never failing: what XML cannot hold becomes U+FFFD, and the message one line."""
    error = SystemError(representable(one_line(code)), representable(one_line(message)), retry_allowed)
    return codec_of(SystemError).dump(error)
