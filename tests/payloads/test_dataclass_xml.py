"""Dataclass and XML: what comes back as it went, and what is refused by name."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from durable_bus.errors import MalformedItem, UnserialisableAnswer
from durable_bus.payloads import messages, xml_reading, xml_writing
from durable_bus.payloads.messages import BufferComplete, BufferError, BufferStart, Huh
from tests.payloads import written

E = etree._Element

# No deadline: a test machine may be busy. `too_slow` likewise.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

xml_text = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"))


def serialise(element: E) -> str:
    return etree.tostring(element, encoding="unicode")


class Colour(enum.Enum):
    RED = "red"
    NONE = 0


@dataclass
class Point:
    x: int
    y: float = 0.5


@dataclass
class Everything:
    text: str
    whole: int
    real: float
    flag: bool
    colour: Colour
    point: Point
    maybe: str | None
    maybe_point: Point | None
    lines: list[str]
    points: list[Point]
    number: int | None = 7
    numbers: list[int] = field(default_factory=lambda: [1, 2])


everything = st.builds(
    Everything,
    text=xml_text | st.just("a\r\nb\tc"),
    whole=st.integers(),
    real=st.floats(allow_nan=False),
    flag=st.booleans(),
    colour=st.sampled_from(Colour),
    point=st.builds(Point, st.integers(), st.floats(allow_nan=False)),
    maybe=st.none() | xml_text,
    maybe_point=st.none() | st.builds(Point, st.integers()),
    lines=st.lists(xml_text),
    points=st.lists(st.builds(Point, st.integers())),
    number=st.none() | st.integers(),
    numbers=st.lists(st.integers()),
)


@unhurried
@given(everything)
def test_a_dataclass_comes_back_as_it_went(value: Everything) -> None:
    payload, is_xml = written.dump(value)
    assert is_xml
    assert written.load(payload, True, Everything) == value
    assert written.load(written.dump(xml_reading.parse(payload))[0], True, Everything) == value


@unhurried
@given(xml_text, st.integers(0, 2**40), st.booleans())
def test_the_payloads_of_the_bus_come_back_as_they_went(text: str, number: int, flag: bool) -> None:
    for value in (
        messages.BufferItem(text, number, text),
        messages.BufferDispatched(text, number),
        BufferComplete(text, number, number, text),
        BufferStart(text, text, flag, text, text),
        BufferError(text, text),
        messages.SystemError(text, text, flag),
        Huh(text),
    ):
        payload, is_xml = written.dump(value)
        assert written.load(payload, is_xml, type(value)) == value
        assert (
            xml_writing.to_element(value).tag
            == type(value).__name__
            == xml_reading.payload_kind(payload, is_xml)
        )


def test_the_convention_is_class_name_and_field_names_without_namespace() -> None:
    assert written.dump(BufferError("b1", "a < b")) == (
        "<BufferError><buffer_id>b1</buffer_id><error>a &lt; b</error></BufferError>",
        True,
    )
    assert written.dump(messages.SystemError("c", "m"))[0] == (
        "<SystemError><code>c</code><message>m</message><retry_allowed>false</retry_allowed></SystemError>"
    )


def test_tags_are_compared_by_local_name_ignoring_case() -> None:
    text = "<p:POINT xmlns:p='urn:p' xmlns='urn:q'><X> 3 </X><p:Y>1e3</p:Y><!-- c --></p:POINT>"
    assert written.load(text, True, Point) == Point(3, 1000.0)


def test_a_comment_does_not_cut_a_field_short() -> None:
    assert written.load("<Huh><error>a<!-- b -->c<?d?>e</error></Huh>", True, Huh) == Huh("ace")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<Line><x>1</x></Line>", "<Line> where <Point>"),
        ("<Point><x>1</x><z>2</z></Point>", "no field z"),
        ("<Point/>", "x is missing"),
        ("<Point><x>1</x><X>1</X></Point>", "x is given twice"),
        ("<Point><x>one</x></Point>", "'one' is not a whole number"),
        ("<Point><x>1.0</x></Point>", "not a whole number"),
        ("<Point><x>1_0</x></Point>", "not a whole number"),
        ("<Point><x/></Point>", "not a whole number"),
        ("<Point><x>" + "9" * 5000 + "</x></Point>", "not a whole number"),
        ("<Point><x>1</x><y>half</y></Point>", "not a number"),
        ("<Point><x><b/></x></Point>", "holds an element"),
        ("<Point>text<x>1</x></Point>", "text outside"),
        ("<Point><x>1</x>text</Point>", "text outside"),
        ("<Point x='1'/>", "x is missing"),
    ],
)
def test_what_does_not_fit_the_dataclass_is_malformed_and_names_the_field(text: str, message: str) -> None:
    with pytest.raises(MalformedItem, match=message):
        written.load(text, True, Point)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), (" false ", False), ("0", False)])
def test_the_words_of_a_bool(text: str, value: bool) -> None:
    @dataclass
    class Flag:
        on: bool
        colour: Colour = Colour.RED

    assert written.load(f"<Flag><on>{text}</on></Flag>", True, Flag) == Flag(value)
    for wrong in ("<on>yes</on>", "<on>1</on><colour>blue</colour>"):
        with pytest.raises(MalformedItem, match="is not"):
            written.load(f"<Flag>{wrong}</Flag>", True, Flag)


def test_a_text_item_fills_the_only_text_field_or_is_malformed() -> None:
    @dataclass
    class Source:
        path: str
        depth: int = 3

    assert written.load("a.py\0", False, Source) == Source("a.py\0")
    for cls in (Point, messages.SystemError, Everything):
        with pytest.raises(MalformedItem, match="(does not fit|where) <?" + cls.__name__):
            written.load("a.py", False, cls)


def test_an_element_field_is_one_element_and_belongs_to_nobody_else() -> None:
    @dataclass
    class Holder:
        body: E
        more: list[E] = field(default_factory=list)

    kept = xml_reading.parse("<r>a<b xmlns='urn:b'>x</b>tail</r>")[0]
    payload, _ = written.dump(Holder(kept, [kept]))
    assert kept.tail == "tail"
    loaded = written.load(payload, True, Holder)
    assert isinstance(loaded, Holder)
    assert serialise(loaded.body) == serialise(loaded.more[0]) == '<b xmlns="urn:b">x</b>'
    assert loaded.body.getparent() is None
    with pytest.raises(MalformedItem, match="2 elements"):
        written.load("<Holder><body><a/><b/></body></Holder>", True, Holder)
    html = etree.fromstring("<p @click='x'>a</p>", etree.HTMLParser())
    with pytest.raises(UnserialisableAnswer):
        written.dump(Holder(html))


def test_a_dataclass_that_refuses_its_values_makes_the_item_malformed() -> None:
    @dataclass
    class Even:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError("odd\nnumber")

    with pytest.raises(MalformedItem, match="ValueError: odd number"):
        written.load("<Even><number>1</number></Even>", True, Even)


def test_a_dataclass_may_hold_itself() -> None:
    value = Tree("a", [Tree("b", [Tree("c")]), Tree("d")])
    assert written.load(written.dump(value)[0], True, Tree) == value
    value.children.append(value)
    with pytest.raises(UnserialisableAnswer):
        written.dump(value)


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Point("1"), "Point: field x: a str, not int"),  # type: ignore[arg-type]
        (Point(True), "a bool, not int"),
        (Point(10**5000), "field x"),
        (Point(1, "2"), "not float"),  # type: ignore[arg-type]
        (Huh(3), "not str"),  # type: ignore[arg-type]
        (Huh(None), "not str"),  # type: ignore[arg-type]
        (Tree("a", "bc"), "children: a str, not a list"),  # type: ignore[arg-type]
        (Tree("a", [Huh("b")]), "a Huh, not Tree"),  # type: ignore[list-item]
        (BufferStart("work", ["a"]), "items: a list, not str"),
        (messages.HandlerResponse.respond("a"), "HandlerResponse has no XML form"),
    ],
)
def test_a_dataclass_that_holds_other_types_than_it_says_is_unserialisable(
    value: object, message: str
) -> None:
    with pytest.raises(UnserialisableAnswer, match=message):
        written.dump(value)


def test_numbers_keep_every_digit() -> None:
    for real in (0.1, 1e300, -0.0, math.inf, 5e-324):
        loaded = written.load(written.dump(Point(2**200, real))[0], True, Point)
        assert repr(loaded) == repr(Point(2**200, real))
