"""Forty values, each with the annotation that gives it back, and a listener for each that looks at what has
come and answers it.
"""

import dataclasses
import datetime
import decimal
import math
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
from lxml import etree

from apps.value_types import Colour, Doc, Loose, Named, Pair, Plain, Point, Record, Row
from durable_bus import Bus, Json, Text, Xml
from durable_bus.payloads.reading import AS_IT_IS

bus = Bus("forty")


class Case(NamedTuple):
    name: str
    annotation: Any
    value: Any
    """As it is given."""
    got: Any
    """As the handler gets it, and whoever reads the answer by the same annotation."""


@dataclasses.dataclass
class Nested:
    where: Point
    names: list[str]
    seen: datetime.date | None = None
    extra: dict[str, int] | None = None
    """So that it has no XML form."""


class Exiting(pydantic.BaseModel):
    @pydantic.model_serializer
    def exit_instead(self) -> dict[str, int]:
        raise SystemExit(3)


DAY, MOMENT = datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 3, 4, 5, 678, datetime.UTC)
NUMBER = uuid.UUID(int=7)
DOC = Doc(title="t", pages=3, seen=DAY)
DEEP: Any = 7
for _ in range(255):
    DEEP = [DEEP]

_SAME: list[tuple[str, Any, Any]] = [
    ("dict", dict, {"b": 1, "a": None}),
    ("dict-empty", dict, {}),
    ("dict-nested", AS_IT_IS, {"a": [{"b": [1, 2.5, True, None, "é\U0001f600"]}]}),
    ("dict-typed", dict[str, list[int]], {"x": [1, 2], "y": []}),
    ("dict-controls", dict, {"nul \0": 'tab \t, line \n, escape \x1b, quote ", backslash \\, \u2028, \x7f'}),
    ("list", list, [3, 1, 2]),
    ("list-empty", AS_IT_IS, []),
    ("list-of-models", list[Doc], [DOC, Doc(title="u")]),
    ("list-deep", AS_IT_IS, DEEP),
    ("int", int, 7),
    ("int-big", int, 2**70),
    ("int-negative", AS_IT_IS, -1),
    ("float", float, 0.1),
    ("float-small", float, 5e-324),
    ("float-large", AS_IT_IS, 1.7976931348623157e308),
    ("bool", bool, False),
    ("model", Doc, DOC),
    ("struct", Record, Record(1, ["a", "b"])),
    ("typeddict", Row, Row(city="Bern", people=134_000)),
    ("namedtuple", Pair, Pair(1, "r")),
    ("tuple", tuple[int, str], (1, "x")),
    ("dataclass", Point, Point(3, 4)),
    ("dataclass-text", Named, Named("a < b & c")),
    ("dates", dict[str, datetime.date], {"d": DAY}),
    ("datetimes", list[datetime.datetime], [MOMENT]),
    ("decimals", list[decimal.Decimal], [decimal.Decimal("1.10"), decimal.Decimal("1E+3")]),
    ("uuids", dict[str, uuid.UUID], {"u": NUMBER}),
    ("paths", list[Path], [Path("/tmp/é")]),
    ("enums", list[Colour], [Colour.RED]),
    ("bytes", dict[str, bytes], {"b": bytes(range(256))}),
    ("dataclasses", list[Nested], [Nested(Point(1), ["a"], DAY, {"x": 1})]),
    ("text", str, "plain é\U0001f600 \u2028 \x7f"),
    ("text-empty", str, ""),
    ("text-controls", str, "\x1b[31mred\x1b[0m \x01\x0b\x1f \ufffe\uffff"),
    ("text-spaces", AS_IT_IS, "  a \r\n\t"),
    ("optional", Doc | None, DOC),
]
_OTHERS: list[tuple[str, Any, Any, Any]] = [
    ("tuple-as-list", AS_IT_IS, (1, (2, 3)), [1, [2, 3]]),
    ("text-said", str, Text("<3"), "<3"),
    ("text-of-json", dict, '{"a": 1}', {"a": 1}),
    ("text-number", int, " 42 ", 42),
    ("json-said", AS_IT_IS, Json("x"), "x"),
    ("json-raw", AS_IT_IS, Json.raw('{ "b": 1.50, "a": 1e3 }'), {"b": 1.5, "a": 1000.0}),
    ("model-of-dict", Doc, {"title": "t", "pages": "3", "seen": "2026-01-02"}, DOC),
    ("dataclass-of-dict", Point, {"x": 1}, Point(1)),
    ("xml-said", str, Xml("<a b='1'/>"), "<a b='1'/>"),
]
CASES = [Case(*same, same[-1]) for same in _SAME] + [Case(*other) for other in _OTHERS]

REFUSED: dict[str, Any] = {
    "NaN": {"x": [1.0, math.nan]},
    "infinity": [math.inf],
    "NaN in a model": Loose(score=math.nan),
    "a set": {"x": {1}},
    "a frozenset by itself": frozenset({1}),
    "a key that is no str": {"x": {1: 2}},
    "a lone surrogate": {"x": "\ud800"},
    "text with a lone surrogate": "\ud800",
    "text with NUL": "a\0",
    "bytes by themselves": b"a",
    "a date by itself": DAY,
    "a class": Plain,
    "an object": Plain(1),
    "an object inside": [Plain(1)],
    "a function": len,
    "too deep": [DEEP, [DEEP]],
    "no JSON": Json.raw("{"),
    "two JSON values": Json.raw("1 2"),
    "too large a number": Json.raw("1e400"),
    "too long": "x" * (8 * 1024 * 1024 + 1),
    "too long as JSON": ["x" * (8 * 1024 * 1024)],
    "too long as an object": {"x": "x" * (8 * 1024 * 1024)},
}
REFUSED_ANSWERS: dict[str, Any] = {**REFUSED, "code that exits": {"x": Exiting()}}


def _answering(case: Case) -> Callable[[Any], Any]:
    def answer(payload):  # type: ignore[no-untyped-def]
        if not is_same(payload, case.got):
            raise AssertionError(f"{payload!r} has come, {case.got!r} is expected")
        return payload

    answer.__annotations__["payload"] = case.annotation
    return answer


def is_same(one: Any, other: Any) -> bool:
    """Equal, and of the same type all the way down where that shows."""
    if isinstance(one, etree._Element):
        return isinstance(other, etree._Element) and etree.tostring(one) == etree.tostring(other)
    return type(one) is type(other) and repr(one) == repr(other)


for _case in CASES:
    bus.listener(_case.name)(_answering(_case))


@bus.listener("refused")
def answer_what_is_refused(number: int) -> Any:
    return tuple(REFUSED_ANSWERS.values())[number]


@bus.listener("all")
def answer_as_it_came(payload: Any) -> Any:
    return payload
