"""Answers and items: what may leave a handler or enter a buffer; and all of it can be rendered."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from durable_bus.errors import LimitExceeded, MalformedItem, UnserialisableAnswer, UsageError
from durable_bus.payloads import results_document, xml_reading, xml_writing
from durable_bus.payloads.forms import TEXT
from durable_bus.payloads.messages import Huh, Result, Text, Xml
from tests.payloads import written

E = etree._Element

# No deadline: a test machine may be busy. `too_slow` likewise.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

xml_text = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"))
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,8}", fullmatch=True)


@dataclass
class Point:
    x: int
    y: float = 0.5


@st.composite
def elements(draw: st.DrawFn, depth: int = 3) -> E:
    element = etree.Element(draw(st.one_of(names, names.map("{{urn:x}}{}".format))))
    element.text = draw(st.none() | xml_text)
    for name, value in draw(st.dictionaries(names, xml_text, max_size=2)).items():
        element.set(name, value)
    if depth:
        for child in draw(st.lists(elements(depth - 1), max_size=2)):
            child.tail = draw(st.none() | xml_text)
            element.append(child)
    return element


# ---- dumping: trap 32


def test_the_forms_of_an_answer() -> None:
    assert written.dump(None) == ("", False)
    assert written.dump("") == ("", False)
    assert written.dump(" a\r\n") == (" a\r\n", False)
    assert written.dump(" <a  b='1'/>\r\n") == (" <a  b='1'/>\r\n", True)
    assert written.dump(Text("<3")) == ("<3", False)
    assert written.dump(Xml(" <a/>")) == (" <a/>", True)
    assert written.dump(etree.Element("a")) == ("<a/>", True)


@unhurried
@given(xml_text)
def test_text_comes_back_character_for_character(text: str) -> None:
    payload, is_xml = written.dump(Text(text))
    assert written.load(payload, is_xml, str) == text
    document = "".join(results_document.results_document([Result(0, True, payload, is_xml, None, 1, 0.0)], 1))
    assert (xml_reading.parse(document)[0].text or "") == text


@pytest.mark.slow
@unhurried
@given(elements())
def test_an_element_comes_back_as_it_went(element: E) -> None:
    payload, is_xml = written.dump(element)
    loaded = written.load(payload, is_xml, E)
    assert isinstance(loaded, E)
    assert xml_reading.canonical(payload) == etree.tostring(element, method="c14n").decode()
    assert xml_reading.canonical(written.dump(loaded)[0]) == xml_reading.canonical(
        payload
    )  # not the same text: <a></a> is <a/>
    assert written.dump(payload) == (payload, True)


UNREPRESENTABLE = ["\0", "a\x01", "\x0b", "\x1f", "\ud800", "\udfff", "\ufffe", "\uffff", "\xe9\ufffe"]


@pytest.mark.parametrize("text", UNREPRESENTABLE, ids=ascii)
def test_what_xml_cannot_hold_is_unserialisable_where_xml_is_asked_for(text: str) -> None:
    for answer in (Xml(f"<a>{text}</a>"), Huh(text)):
        with pytest.raises(UnserialisableAnswer) as caught:
            written.dump(answer)
        str(caught.value).encode()
        caught.value.answer.encode()


@pytest.mark.parametrize("text", UNREPRESENTABLE, ids=ascii)
def test_text_may_hold_any_character_but_nul_and_lone_surrogates(text: str) -> None:
    for answer in (text, Text(text), f"<a>{text}</a>"):
        if re.search("[\0\ud800-\udfff]", text):
            with pytest.raises(UnserialisableAnswer) as caught:
                written.dump(answer)
            str(caught.value).encode()
        else:
            assert written.dump(answer) == (getattr(answer, "text", answer), TEXT)


@pytest.mark.parametrize("text", ["\x7f", "\x85", "\x9f", "\u2028", "\ufdd0", "\U0001fffe", "\U0010ffff"])
def test_what_xml_can_hold_is_kept(text: str) -> None:
    assert written.dump(text) == (text, False)
    assert written.load(written.dump(Huh(text))[0], True, Huh) == Huh(text)


@pytest.mark.parametrize("text", ["<3", "<a>", "<a/><b/>", "<a/>x", "<!-- c -->", "<p:a/>", "<a>&x;</a>"])
def test_text_that_looks_like_xml_and_is_not_is_text_unless_said_outright(text: str) -> None:
    with pytest.raises(UnserialisableAnswer):
        written.dump(Xml(text))
    assert written.dump(text) == written.dump(Text(text)) == (text, TEXT)


def test_the_tail_stays_behind_and_the_tree_is_left_as_it_was() -> None:
    root = xml_reading.parse("<a><b>x</b>tail</a>")
    assert written.dump(root[0]) == ("<b>x</b>", True)
    assert root[0].tail == "tail"


def test_a_namespace_declared_further_up_comes_along() -> None:
    root = xml_reading.parse("<a xmlns='urn:a' xmlns:p='urn:p'><b p:c='1'/></a>")
    payload, _ = written.dump(root[0])
    assert xml_reading.parse(payload).tag == "{urn:a}b"
    assert xml_reading.parse(payload).get("{urn:p}c") == "1"


def test_a_comment_or_instruction_as_root_is_no_answer() -> None:
    for node in (etree.Comment("c"), etree.ProcessingInstruction("p", "x"), etree.Entity("x")):
        with pytest.raises(UnserialisableAnswer):
            written.dump(node)


def test_an_entity_reference_left_by_another_parser_is_unserialisable() -> None:
    parser = etree.XMLParser(resolve_entities=False)
    root = etree.fromstring('<!DOCTYPE a [<!ENTITY x "X">]><a>abc&x;def</a>', parser)
    built = etree.Element("a")
    built.append(etree.Entity("x"))
    moved = xml_reading.parse("<a/>")
    moved.append(etree.fromstring('<!DOCTYPE a [<!ENTITY x "X">]><a>abc&x;def</a>', parser))
    for element in (root, built, moved):
        with pytest.raises(UnserialisableAnswer, match="'x' not defined"):
            written.dump(element)


def test_an_ampersand_in_cdata_is_no_entity_reference() -> None:
    element = etree.Element("a")
    element.text = etree.CDATA("b & c &d;")
    assert written.dump(element) == ("<a><![CDATA[b & c &d;]]></a>", True)


def test_a_tree_of_an_html_parser_must_be_xml() -> None:
    good = etree.fromstring("<p>a<br>b", etree.HTMLParser())
    assert written.dump(good) == ("<html><body><p>a<br/>b</p></body></html>", True)
    with pytest.raises(UnserialisableAnswer, match="not one XML element"):
        written.dump(etree.fromstring("<p @click='x'>a", etree.HTMLParser()))


def test_carriage_returns_survive() -> None:
    element = etree.Element("a")
    element.text = "b\r\nc"
    assert xml_reading.parse(written.dump(element)[0]).text == "b\r\nc"
    document = results_document.result_item(0, True, "b\r\nc", "text")
    assert xml_reading.parse(document).text == "b\r\nc"


@pytest.mark.parametrize("value", [b"a", {1}, object(), Point, Exception("x"), len, 1j])
def test_any_other_type_is_unserialisable_and_named(value: object) -> None:
    with pytest.raises(UnserialisableAnswer, match=type(value).__name__):
        written.dump(value)


class Liar(str):
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __len__ = encode = lstrip = __getitem__ = __str__  # type: ignore[assignment]


class Property:
    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise SystemExit(3)


@dataclass
class Exits:
    name: str = "x"

    def __getattribute__(self, attribute: str) -> Any:
        if attribute == "name":
            raise SystemExit(3)
        return object.__getattribute__(self, attribute)


def test_an_answer_whose_own_code_raises_is_unserialisable_at_worst() -> None:
    assert written.dump(Liar("a")) == ("a", False)
    assert written.dump(Liar("<a/>")) == ("<a/>", True)
    assert written.dump(Text(Liar("a"))) == ("a", False)
    assert written.dump(Huh(Liar("a")))[0] == "<Huh><error>a</error></Huh>"
    for value in (Property(), Exits()):
        with pytest.raises(UnserialisableAnswer):
            written.dump(value)


def test_a_payload_has_a_size_limit_in_bytes() -> None:
    most = "x" * xml_reading.PAYLOAD_BYTES_MAX
    assert written.dump(most) == written.dump_item(most) == (most, False)
    element = etree.Element("a")
    element.text = most
    for answer in (
        most + "x",
        Text("\xe9" * (xml_reading.PAYLOAD_BYTES_MAX // 2 + 1)),
        Xml(f"<a>{most}</a>"),
        element,
    ):
        with pytest.raises(UnserialisableAnswer, match="bytes"):
            written.dump(answer)
    for item in (most + "x", Text("\xe9" * (xml_reading.PAYLOAD_BYTES_MAX // 2 + 1)), Xml(f"<a>{most}</a>")):
        with pytest.raises(LimitExceeded, match="bytes"):
            written.dump_item(item)


ANYTHING = st.one_of(
    st.none(), st.text(), st.text().map(Text), st.text().map(Xml), st.text().map("<{}".format), elements(),
    st.builds(Huh, st.text()), st.integers(), st.binary(), st.builds(Point, st.integers()),
)  # fmt: skip


@unhurried
@given(st.lists(ANYTHING, max_size=8))
def test_whatever_handlers_answer_the_results_document_can_be_parsed(answers: list[object]) -> None:
    results = []
    for index, answer in enumerate(answers):
        try:
            payload, is_xml = written.dump(answer)
            results.append(Result(index, True, payload, is_xml, None, 1, 0.0))
        except UnserialisableAnswer as error:
            results.append(
                Result(index, False, xml_writing.error_payload("answer", str(error)), True, "", 1, 0.0)
            )
    root = xml_reading.parse("".join(results_document.results_document(results, len(answers) + 1)))
    assert [item.get("index") for item in root] == [str(i) for i in range(len(answers) + 1)]
    assert root[-1].get("missing") == "true"


@unhurried
@given(st.text() | st.text().map("<a>{}</a>".format) | st.text().map("<{}/>".format))
def test_an_item_is_loaded_or_malformed_and_nothing_else(text: str) -> None:
    for is_xml in (True, False):
        for annotation in (E, str, Huh, Point):
            try:
                written.load(text, is_xml, annotation)
            except MalformedItem as error:
                said = str(error)
                assert "\n" not in said


# ---- items


def test_an_item_is_not_validated_but_has_its_form() -> None:
    assert written.dump_item("<3") == ("<3", True)
    assert written.dump_item(Text("<3")) == ("<3", False)
    assert written.dump_item(Xml("no")) == ("no", True)
    assert written.dump_item(" a\x01 ") == (" a\x01 ", False)
    assert written.dump_item(etree.Element("a")) == ("<a/>", True)
    assert written.dump_item(Point(1)) == ("<Point><x>1</x><y>0.5</y></Point>", True)


@pytest.mark.parametrize("wrap", [str, Text, Xml])
@pytest.mark.parametrize("text", ["a\0b", "\0", "<a>\0</a>", "a\ud800", "\udc80"], ids=ascii)
def test_an_item_that_cannot_be_journaled_is_refused(wrap: Callable[[str], object], text: str) -> None:
    with pytest.raises(UsageError, match="cannot be journaled"):
        written.dump_item(wrap(text))


@pytest.mark.parametrize("value", [b"a", object(), {1}, Huh(3)])  # type: ignore[arg-type]
def test_an_item_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="cannot be journaled"):
        written.dump_item(value)


# ---- the results document


def test_the_results_document_has_one_item_per_index_in_order() -> None:
    results = [
        Result(1, True, "<a>1</a>", True, None, 1, 0.0, "xml"),
        Result(2, False, "<Huh/>", True, "", 1, 0.0, "xml"),
        Result(4, True, "a < b & c > d\r", False, None, 1, 0.0),
        Result(6, True, '{"a":"<"}', False, None, 1, 0.0, "json"),
        Result(7, True, "a\x1b[0m", False, None, 1, 0.0),
        Result(8, True, "gAU=", False, None, 1, 0.0, "pickle"),
    ]
    assert "".join(results_document.results_document(results, 9)) == (
        "<results>"
        '<item index="0" success="false" missing="true"/>'
        '<item index="1" success="true"><a>1</a></item>'
        '<item index="2" success="false"><Huh/></item>'
        '<item index="3" success="false" missing="true"/>'
        '<item index="4" success="true">a &lt; b &amp; c &gt; d&#13;</item>'
        '<item index="5" success="false" missing="true"/>'
        '<item index="6" success="true" form="json">{"a":"&lt;"}</item>'
        '<item index="7" success="true" encoding="base64">YRtbMG0=</item>'
        '<item index="8" success="true" form="pickle">gAU=</item>'
        "</results>"
    )
    assert "".join(results_document.results_document([], 0)) == "<results></results>"


def test_an_answer_inside_the_results_document_keeps_its_namespaces() -> None:
    answer = xml_reading.parse("<p:a xmlns:p='urn:p'><b xmlns='urn:b'/><c/></p:a>")
    document = "".join(
        results_document.results_document(
            [Result(0, True, written.dump(answer)[0], True, None, 1, 0.0, "xml")], 1
        )
    )
    inside = xml_reading.parse(document)[0][0]
    assert [node.tag for node in inside.iter()] == ["{urn:p}a", "{urn:b}b", "c"]


def test_the_results_document_is_streamed() -> None:
    def endless() -> Any:
        index = 0
        while True:
            yield Result(index, True, "a", False, None, 1, 0.0)
            index += 1

    pieces = results_document.results_document(endless(), 2**32)
    assert [next(pieces) for _ in range(3)][-1] == '<item index="1" success="true">a</item>'


def test_a_text_that_should_never_have_been_recorded_is_rendered_all_the_same() -> None:
    assert (
        results_document.result_item(0, True, "a\0\ud800b", "text")
        == '<item index="0" success="true" encoding="base64">YQDtoIBi</item>'
    )


def test_results_out_of_order_are_noticed() -> None:
    result = Result(1, True, "a", False, None, 1, 0.0)
    for results, total in (([result, result], 2), ([result], 1)):
        with pytest.raises(ValueError, match="result 1 where"):
            "".join(results_document.results_document(results, total))
