"""XML on its way in: one hardened parser.

XML is exactly one element: no DOCTYPE, no comment or processing
instruction beside it, at most XML_DEPTH_MAX deep, at most PAYLOAD_BYTES_MAX long. An XML declaration before
it is dropped. All else is MalformedItem, which becomes a failed result.
"""

from __future__ import annotations

import re
from typing import Final

from lxml import etree

from durable_bus.errors import MalformedItem, one_line
from durable_bus.payloads.characters import first_unrepresentable
from durable_bus.payloads.dataclass_xml import local_name
from durable_bus.payloads.forms import FORM_NAMES, XML

__all__ = [
    "PAYLOAD_BYTES_MAX",
    "XML_DEPTH_MAX",
    "HardenedParser",
    "canonical",
    "error_text",
    "guess_is_xml",
    "is_deeper",
    "item_element",
    "parse",
    "parse_bytes",
    "payload_kind",
    "split_items",
    "without_declaration",
]

PAYLOAD_BYTES_MAX = 8 * 1024 * 1024
"""Longest payload, in bytes of UTF-8. libxml2 by itself stops at 10,000,000 bytes of one text node."""

XML_DEPTH_MAX = 256
"""Deepest nesting of elements, the root counting 1. libxml2 by itself stops at 256, so more has no effect."""

_SPACES: Final = " \t\r\n"  # what XML calls white space; Python's strip() knows 25 more characters


class HardenedParser(etree.XMLParser):
    """The parser of all that comes from elsewhere."""

    def __init__(self) -> None:
        # encoding= overrides what libxml2 would guess from the first bytes: `<` and NUL would be UTF-16,
        # where a DOCTYPE could hide. collect_ids=False: no table of xml:id attributes, which nobody asks for;
        # 4 % faster.
        super().__init__(
            encoding="utf-8",
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            dtd_validation=False,
            huge_tree=False,
            recover=False,
            collect_ids=False,
        )


_PARSER: Final = HardenedParser()
_FED: Final = [HardenedParser()]
"""Parsers that nobody feeds just now: who is fed has a state, which threads must not share."""
_FED_BYTES_MAX: Final = 64 * 1024
"""What is longer is parsed as fast at once."""

_DECLARATION = re.compile(r"[ \t\r\n]*<\?xml[ \t\r\n][^>]*?\?>[ \t\r\n]*")
_ROOT = re.compile(r"[ \t\r\n]*(?:<\?xml[ \t\r\n][^>]*?\?>[ \t\r\n]*)?<(?:[^\s<>/:!?]+:)?([^\s<>/:!?]+)")


BEFORE_XML: Final = f"<{_SPACES}"
"""A text that begins with another character is not meant as XML."""


def guess_is_xml(text: str) -> bool:
    """Whether plain text is meant as XML: its first character after XML's white space is `<`."""
    return text[:1] == "<" or text.lstrip(_SPACES)[:1] == "<"


def split_items(text: str) -> list[str]:
    """The items of a file or of `BufferStart.items`: a line each, stripped, empty ones dropped.

    Split at LF only: `str.splitlines` also splits at VT, FF, NEL, U+2028, … which stand inside real texts.
    """
    return [line for line in map(str.strip, text.split("\n")) if line]


# ---- values


def parse(text: str) -> etree._Element:
    """The one element that the text is. Raises MalformedItem, one line, for anything else.

    A DOCTYPE can only stand before the root, or it is not well formed; so it is enough to see that the text,
    its declaration dropped, begins with the root. That is before libxml2 sees a byte of it.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise MalformedItem("not XML: a lone surrogate") from None
    return parse_bytes(data)


def parse_bytes(data: bytes) -> etree._Element:
    """The same of UTF-8."""
    if not b"<@" < data < b"=":  # all but `<` and a letter, `_` or a character beyond ASCII (or `@`)
        data = _from_root(data.decode()).encode()
    if len(data) > PAYLOAD_BYTES_MAX:
        raise MalformedItem(f"{len(data)} bytes of XML, more than {PAYLOAD_BYTES_MAX}")
    root = _root(data)
    if root.getnext() is not None:
        raise MalformedItem("not one element: a comment or processing instruction stands after it")
    if XML_DEPTH_MAX < 256 and is_deeper(root, XML_DEPTH_MAX):
        raise MalformedItem(f"elements nested deeper than {XML_DEPTH_MAX}")
    return root


def _root(data: bytes) -> etree._Element:
    """Raises MalformedItem. To feed a parser takes 1.25 µs for 88 bytes, and `fromstring` 1.45; what it says
    of bad XML is the better reason.
    """
    if len(data) <= _FED_BYTES_MAX:
        try:
            parser = _FED.pop()
        except IndexError:  # another thread has it, or it was left in the middle of something: 0.5 µs
            parser = HardenedParser()
        try:
            parser.feed(data)
            root = parser.close()
        except etree.XMLSyntaxError:
            pass
        else:
            _FED.append(parser)
            return root
    try:
        return etree.fromstring(data, _PARSER)
    except etree.XMLSyntaxError as error:
        raise MalformedItem(f"not XML: {error.msg}") from None


def _from_root(text: str) -> str:
    """The text from its root on, without declaration. Raises MalformedItem when something else is first."""
    text = without_declaration(text).lstrip(_SPACES)
    if text[:1] != "<":
        raise MalformedItem("not XML: it does not begin with an element")
    if text.startswith("<!--") or text[1:2] == "?":
        raise MalformedItem("not one element: a comment or processing instruction stands before it")
    if text[1:2] == "!":
        raise MalformedItem("a DOCTYPE is refused")
    return text


def without_declaration(text: str) -> str:
    """The XML as it is, without a declaration before it: that cannot stand inside a document."""
    if text[1:2] == "?" or text[:1] != "<":
        declaration = _DECLARATION.match(text)
        if declaration is not None:
            return text[declaration.end() :]
    return text


def is_deeper(root: etree._Element, depth_max: int) -> bool:
    """Whether an element stands deeper than `depth_max`, the root counting 1."""
    return bool(root.xpath("boolean(" + "/".join("*" * depth_max) + ")"))  # a step a level, all in C


def item_element(text: str) -> etree._Element:
    """A text item as `<item>text</item>`. Raises MalformedItem for a character that XML cannot hold."""
    element = etree.Element("item")
    try:
        element.text = text
    except ValueError:  # UnicodeEncodeError, for a lone surrogate, is one
        raise MalformedItem(f"the text cannot be in XML: {first_unrepresentable(text)}") from None
    return element


def payload_kind(text: str, form: int) -> str:
    """The kind of a message: of XML its root's local name, without parsing, and "" for no root; else the name
    of its form.
    """
    if form != XML:
        return FORM_NAMES[form]
    root = _ROOT.match(text)
    return "" if root is None else root[1]


def canonical(text: str) -> str:
    """The XML in canonical form (C14N 1.0), for comparing answers: quoting and attribute order do not matter.

    What is not XML, or has no canonical form (a relative namespace), is returned as it is.
    """
    try:
        return etree.tostring(parse(text), method="c14n").decode()
    except (MalformedItem, etree.C14NError):
        return text


def error_text(payload: str) -> str:
    """What a failed result's payload says, as one line: "code: message", Huh's error, or all its text."""
    try:
        root = parse(payload)
    except MalformedItem:
        return one_line(payload)
    fields = {local_name(child).lower(): _text_of(child) for child in root.iterchildren("*")}
    kind = local_name(root).lower()
    if kind == "systemerror" and "code" in fields:
        return one_line(f"{fields['code']}: {fields.get('message', '')}")
    if kind in ("huh", "buffererror") and "error" in fields:
        return one_line(fields["error"])
    return one_line(_text_of(root)) or one_line(payload)


def _text_of(element: etree._Element) -> str:
    """All text inside; comments and processing instructions are none."""
    return "".join(map(str, element.itertext("*")))
