"""XML on its way out: elements, dataclasses, the payload of an error.

Whatever is written here can stand in the results document, which therefore can always be rendered.
`dump_element` names the one case that is not seen.
"""

from __future__ import annotations

import re
from typing import Final

from lxml import etree

from durable_bus.errors import MalformedItem, UnserialisableAnswer, UsageError, one_line
from durable_bus.payloads.characters import first_unrepresentable, is_representable, representable
from durable_bus.payloads.dataclass_xml import codec_of
from durable_bus.payloads.messages import SystemError
from durable_bus.payloads.xml_reading import (
    PAYLOAD_BYTES_MAX,
    XML_DEPTH_MAX,
    HardenedParser,
    is_deeper,
    parse,
    without_declaration,
)

__all__ = ["dump_dataclass", "dump_element", "error_payload", "to_element", "xml_of_answer"]

_RESULTS_DEPTH: Final = 2  # <results><item> around every answer
_NESTED_CHARS_MIN: Final = 7  # <a></a>: a text with fewer characters a level is not that deep
_tostring: Final = etree.tostring
_DEFAULT_PARSER: Final = etree.get_default_parser()  # what etree.Element() says made it
_ENTITY = re.compile("&(?!amp;|lt;|gt;|quot;|#)")  # libxml2 itself writes no other reference


def xml_of_answer(text: str) -> str:
    """XML that is given as text, without a declaration before it. Raises UnserialisableAnswer unless it is
    one element that can stand in a results document.
    """
    try:
        root = parse(text)
    except MalformedItem as error:
        raise UnserialisableAnswer(f"not one XML element: {error}") from None
    _check_depth(root, text)
    return without_declaration(text)


def _check_depth(root: etree._Element, text: str) -> None:
    depth_max = XML_DEPTH_MAX - _RESULTS_DEPTH
    if text.count("</") >= depth_max and is_deeper(root, depth_max):
        raise UnserialisableAnswer(f"elements nested deeper than {depth_max}")


def _check_characters(text: str) -> None:
    """Raise UnserialisableAnswer unless size and characters allow the text in a document."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise UnserialisableAnswer(f"XML cannot hold {first_unrepresentable(text)}") from None
    if len(data) > PAYLOAD_BYTES_MAX:
        raise UnserialisableAnswer(f"{len(data)} bytes, more than {PAYLOAD_BYTES_MAX}")
    if not is_representable(text, data):
        raise UnserialisableAnswer(f"XML cannot hold {first_unrepresentable(text)}")


def dump_element(value: etree._Element) -> str:
    """An element without its tail. Raises UnserialisableAnswer for what is no XML."""
    text = _tostring(value, encoding=str, with_tail=False)
    parser = value.getroottree().parser
    may_be_deep = len(text) > _NESTED_CHARS_MIN * (XML_DEPTH_MAX - _RESULTS_DEPTH)
    if type(parser) is not HardenedParser or may_be_deep or "&" in text:
        _check_element(text, parser)
    return text


def _check_element(text: str, parser: etree._BaseParser | None) -> None:
    """A tree of an HTML or recovering parser may hold names that no XML parser takes (`@click`), and one of
    any other parser entity references; both are parsed again. What was moved out of an HTML tree into one of
    ours is not noticed: that would cost every honest answer a second parse, half as much again as the whole
    item.
    """
    is_ours = (type(parser) is HardenedParser or parser is _DEFAULT_PARSER) and not _ENTITY.search(text)
    if not is_ours or len(text) * 4 > PAYLOAD_BYTES_MAX:
        _check_characters(text)
    if not is_ours or text.count("</") >= XML_DEPTH_MAX - _RESULTS_DEPTH:
        xml_of_answer(text)


def dump_dataclass(value: object) -> str:
    """A dataclass as its element. Raises UnserialisableAnswer where it has none."""
    try:
        codec = codec_of(type(value))
    except (UsageError, NameError) as error:
        raise UnserialisableAnswer(f"{type(value).__name__} has no XML form: {error}") from None
    text = codec.dump(value)
    _check_characters(text)
    if codec.holds_elements or text.count("</") >= XML_DEPTH_MAX - _RESULTS_DEPTH:
        xml_of_answer(text)
    return text


def to_element(payload: object) -> etree._Element:
    """A payload dataclass as its element. Raises UnserialisableAnswer where it has none."""
    return parse(dump_dataclass(payload))


def error_payload(code: str, message: str, answer: str = "") -> str:
    """A SystemError as XML, never failing: what XML cannot hold becomes U+FFFD, and the message one line.

    `answer`: the repr of what a handler has answered, kept whole behind the message.
    """
    text = representable(one_line(message))
    if answer:
        text = f"{text}; the answer was: {representable(answer)}"
    return codec_of(SystemError).dump(SystemError(representable(one_line(code)), text))
