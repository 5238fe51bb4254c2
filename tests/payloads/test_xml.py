"""The parser: what is refused, what arrives at a handler, and what a payload says of itself."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from durable_bus.errors import MalformedItem, UnserialisableAnswer
from durable_bus.payloads import messages, results_document, xml_reading, xml_writing
from durable_bus.payloads.forms import TEXT, XML
from durable_bus.payloads.messages import BufferError, Huh, Result, Xml
from tests.payloads import written

E = etree._Element

# No deadline: a test machine may be busy. `too_slow` likewise.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def serialise(element: E) -> str:
    return etree.tostring(element, encoding="unicode")


# ---- trap 31: the parser

BOMB = (
    '<!DOCTYPE a [<!ENTITY a0 "ha">'
    + "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(9))
    + "]><a>&a9;</a>"
)
DOCTYPES = [
    "<!DOCTYPE a><a/>",
    " \r\n\t<!DOCTYPE a><a/>",
    "<?xml version='1.0'?><!DOCTYPE a><a/>",
    "<?xml version='1.0' encoding='utf-16'?>\n<!DOCTYPE a><a/>",
    "<!-- c --><!DOCTYPE a><a/>",
    "<?pi?><!DOCTYPE a><a/>",
    "<!doctype a><a/>",
    "<a><!DOCTYPE a></a>",
    "<a/><!DOCTYPE a>",
    "<![CDATA[x]]><!DOCTYPE a><a/>",
    '<!DOCTYPE a [<!ENTITY x "X">]><a>abc&x;def</a>',
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
    '<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x.dtd"><a/>',
    '<!DOCTYPE a [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]><a/>',
    BOMB,
]


@pytest.mark.parametrize("text", DOCTYPES)
def test_a_doctype_is_refused_wherever_it_stands(text: str) -> None:
    for annotation in (E, str, Huh):
        with pytest.raises(MalformedItem) as caught:
            written.load(text, True, annotation)
        assert "\n" not in str(caught.value)
        assert "root:" not in str(caught.value)
    with pytest.raises(UnserialisableAnswer):
        written.dump(Xml(text))
    assert written.dump(text) == (text, TEXT)


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-7", "cp037"])
def test_a_doctype_cannot_hide_in_another_encoding(codec: str) -> None:
    smuggled = '<!DOCTYPE a [<!ENTITY x "X">]><a>abc&x;def</a>'.encode(codec).decode("latin-1")
    declared = "<\0?\0x\0m\0l\0 \0?\0>\0" + smuggled
    for text in (smuggled, declared, smuggled[1:], "<" + smuggled):
        with pytest.raises(MalformedItem):
            xml_reading.parse(text)


def test_an_undefined_entity_never_cuts_the_text_short() -> None:
    with pytest.raises(MalformedItem, match="Entity 'x' not defined"):
        xml_reading.parse("<a>abc&x;def</a>")


def test_an_exclamation_mark_in_a_comment_or_cdata_is_no_doctype() -> None:
    root = xml_reading.parse("<a><!-- <!DOCTYPE a> -->x<![CDATA[<!DOCTYPE b>]]></a>")
    assert "".join(root.xpath("//text()")) == "x<!DOCTYPE b>"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "<",
        "plain",
        "<a>",
        "<a></b>",
        "<a/><b/>",
        "<a/>tail",
        "before<a/>",
        "<a b='1' b='2'/>",
        "<p:a/>",
        "<a p:b='1'/>",
        "<a>&#0;</a>",
        "<a>&#1;</a>",
        "<a>\0</a>",
        "<a>\x01</a>",
        "<a>\ud800</a>",
        "<a>\ufffe</a>",
        "<a>]]></a>",
        "<1/>",
        "<!-- c -->",
        "<?pi x?>",
        "<!-- c --><a/>",
        "<a/><!-- c -->",
        "<?pi x?><a/>",
        "<a/><?pi x?>",
        "<?xml version='1.0'?>",
        "<?xml version='1.0'?><?xml version='1.0'?><a/>",
        "<?xml version='1.0'?><?xml-stylesheet href='x'?><a/>",
        "\ufeff<a/>",
        "<a>" + "x" * 10_000_001 + "</a>",
    ],
    ids=lambda text: repr(text[:50]),
)
def test_what_is_not_exactly_one_element_is_malformed_in_one_line(text: str) -> None:
    for annotation in (E, str):
        with pytest.raises(MalformedItem) as caught:
            written.load(text, True, annotation)
        assert "\n" not in str(caught.value)


def test_comments_and_instructions_inside_the_element_are_fine() -> None:
    assert serialise(xml_reading.parse("<a><!-- c --><?pi x?></a>")) == "<a><!-- c --><?pi x?></a>"


@pytest.mark.parametrize(
    "declaration", ["<?xml version='1.0'?>", '<?xml version="1.0" encoding="latin-1"?>\n']
)
def test_a_declaration_before_the_element_is_dropped(declaration: str) -> None:
    text = f" {declaration} <a>\xe9</a> "
    assert xml_reading.parse(text).text == "\xe9"
    assert written.load(text, True, str) == "<a>\xe9</a> "
    assert written.dump(text) == written.dump(Xml(text)) == ("<a>\xe9</a> ", True)
    assert xml_reading.payload_kind(text, True) == "a"


def test_a_compressed_file_is_neither_found_nor_inflated(tmp_path: Path) -> None:
    path = tmp_path / "item.xml"
    path.write_bytes(gzip.compress(b"<a>" + b"x" * 10**6 + b"</a>"))
    for text in (str(path), path.as_uri(), path.read_bytes().decode("latin-1")):
        with pytest.raises(MalformedItem):
            xml_reading.parse(text)


def test_depth_has_a_limit_that_leaves_room_for_the_results_document() -> None:
    def nested(depth: int, space: str = "") -> str:
        return "<a>" * (depth - 1) + "<a/>" + f"</a{space}>" * (depth - 1)

    assert xml_reading.parse(nested(256)) is not None
    with pytest.raises(MalformedItem, match="256"):
        xml_reading.parse(nested(257))
    for space in ("", " "):
        payload, form = written.dump(nested(254, space))
        assert form == XML
        document = "".join(
            results_document.results_document([Result(0, True, payload, True, None, 1, 0.0, "xml")], 1)
        )
        assert xml_reading.parse(document) is not None
        for depth in (255, 256, 257, 1000):
            with pytest.raises(UnserialisableAnswer):
                written.dump(Xml(nested(depth, space)))
            assert written.dump(nested(depth, space))[1] == TEXT


def test_an_element_built_too_deep_is_refused_and_one_just_deep_enough_is_not() -> None:
    root = leaf = etree.Element("a")
    for _ in range(253):
        leaf = etree.SubElement(leaf, "a")
    assert written.dump(root)[1]
    etree.SubElement(leaf, "b")
    with pytest.raises(UnserialisableAnswer, match="254"):
        written.dump(root)


def test_many_siblings_are_not_depth() -> None:
    text = "<a>" + "<b>1</b>" * 1000 + "</a>"
    assert written.dump(text) == written.dump(xml_reading.parse(text)) == (text, True)


def test_the_limits_can_be_adjusted(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (xml_reading, xml_writing):
        monkeypatch.setattr(module, "XML_DEPTH_MAX", 3)
    assert xml_reading.parse("<a><b><c/></b></a>") is not None
    with pytest.raises(MalformedItem, match="deeper than 3"):
        xml_reading.parse("<a><b><c><d/></c></b></a>")
    with pytest.raises(UnserialisableAnswer, match="deeper than 1"):
        written.dump(xml_reading.parse("<a><b></b></a>"))
    for module in (xml_reading, xml_writing):
        monkeypatch.setattr(module, "PAYLOAD_BYTES_MAX", 10)
    assert xml_reading.parse("<a>123</a>") is not None
    with pytest.raises(MalformedItem, match="more than 10"):
        xml_reading.parse("<a>\xe9\xe9</a>")


# ---- guesses and lines


@pytest.mark.parametrize("text", ["<a/>", " \r\n\t<a/>", "<3"])
def test_text_that_begins_with_a_bracket_is_guessed_as_xml(text: str) -> None:
    assert xml_reading.guess_is_xml(text)


@pytest.mark.parametrize("text", ["", " ", "a<b", "\x0b<a/>", "\xa0<a/>", "&lt;"])
def test_all_other_text_is_guessed_as_text(text: str) -> None:
    assert not xml_reading.guess_is_xml(text)


def test_lines_are_split_at_lf_only() -> None:
    assert xml_reading.split_items("a\x0bb\x0cc\x85d\u2028e\rf\x1cg\n\n  h  \r\n \t\r\ni") == [
        "a\x0bb\x0cc\x85d\u2028e\rf\x1cg",
        "h",
        "i",
    ]
    assert xml_reading.split_items("") == xml_reading.split_items("\r\n \n") == []


# ---- loading


def test_a_text_item_arrives_at_an_element_handler_inside_an_item_element() -> None:
    assert serialise(written.load("a < b & c", False, E)) == "<item>a &lt; b &amp; c</item>"  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["\0", "a\x01", "\ufffe", "\x1b[0m"])
def test_text_that_xml_cannot_hold_is_malformed_for_an_element_handler_only(text: str) -> None:
    with pytest.raises(MalformedItem, match=r"U\+"):
        written.load(text, False, E)
    assert written.load(text, False, str) == text


def test_a_str_handler_gets_the_text_and_the_xml_as_they_are() -> None:
    assert written.load(" a\r\n", False, str) == " a\r\n"
    assert written.load(" <a  b='1'/>\r\n", True, str) == " <a  b='1'/>\r\n"


# ---- looking at payloads


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<Huh><error/></Huh>", "Huh"),
        (" <p:Huh xmlns:p='x'/>", "Huh"),
        ("<Huh/>", "Huh"),
        ("<a\n/>", "a"),
        ("plain", ""),
        ("<!-- c --><a/>", ""),
        ("", ""),
    ],
)
def test_the_kind_of_a_payload_is_its_root(text: str, kind: str) -> None:
    assert xml_reading.payload_kind(text, True) == kind
    assert xml_reading.payload_kind(text, False) == "text"


@pytest.mark.slow
@unhurried
@given(st.text(), st.text(), st.text())
def test_an_error_payload_never_fails(code: str, message: str, answer: str) -> None:
    payload = xml_writing.error_payload(code, message, answer)
    loaded = written.load(payload, XML, messages.SystemError)
    assert isinstance(loaded, messages.SystemError)
    assert not loaded.retry_allowed
    if answer.isascii() and answer.isprintable():
        assert loaded.message.endswith(answer)
    assert "\n" not in xml_reading.error_text(payload)


def test_the_text_of_an_error_is_for_humans() -> None:
    assert (
        xml_reading.error_text(xml_writing.error_payload("timeout", "no answer\nwithin 30 s"))
        == "timeout: no answer within 30 s"
    )
    assert xml_reading.error_text(written.dump(Huh("what?"))[0]) == "what?"
    assert xml_reading.error_text("<huh><ERROR>what?</ERROR></huh>") == "what?"
    assert (
        xml_reading.error_text(written.dump(BufferError("b", "No items specified"))[0])
        == "No items specified"
    )
    assert xml_reading.error_text("<other><a>b</a> c</other>") == "b c"
    assert (
        xml_reading.error_text("<Huh><!--no--><?no no?><error>what<!--no--><b>?</b>!</error></Huh>")
        == "what?!"
    )
    assert xml_reading.error_text("plain\ntext") == "plain text"
    assert xml_reading.error_text("<broken") == "<broken"
    assert xml_reading.error_text("") == ""


def test_the_canonical_form_is_blind_to_quotes_and_order_only() -> None:
    assert xml_reading.canonical("<a c='1' b=\"2\"></a>") == xml_reading.canonical('<a b="2"  c="1"/>')
    assert xml_reading.canonical("<a> </a>") != xml_reading.canonical("<a/>")
    assert xml_reading.canonical("plain") == "plain"
    assert xml_reading.canonical("<a xmlns='relative'/>") in (
        "<a xmlns='relative'/>",
        '<a xmlns="relative"></a>',
    )


def test_whatever_python_calls_printable_is_a_text_that_can_be_in_a_document() -> None:
    """A worker takes a short answer of such characters as it is, and does not look further. Which they are
    grows with every Python.
    """
    printable = "".join(filter(str.isprintable, map(chr, range(sys.maxunicode + 1))))
    assert len(printable) > 100_000
    assert written.dump(f"a{printable}") == (f"a{printable}", False)
