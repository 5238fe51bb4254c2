"""Types as users of the bus would write them, for tests of payloads."""

import dataclasses
import datetime
import decimal
import enum
import math
import uuid
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import msgspec
import pydantic
from lxml import etree

from durable_bus import BufferStart, HandlerResponse, Huh, Json, SystemError, Text, Xml

__all__ = ["NAMES"]


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Named:
    name: str


class Doc(pydantic.BaseModel):
    title: str
    pages: int = 1
    seen: datetime.date | None = None


class Loose(pydantic.BaseModel):
    score: float


class Record(msgspec.Struct):
    id: int
    tags: list[str] = []


class Row(TypedDict):
    city: str
    people: int


class Pair(NamedTuple):
    left: int
    right: str


class Colour(enum.Enum):
    RED = "red"


class Plain:
    """A class that has no form."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and other.number == self.number

    def __hash__(self) -> int:
        return self.number

    def __repr__(self) -> str:
        return f"Plain({self.number})"


NAMES: dict[str, Any] = {
    **{
        kind.__name__: kind
        for kind in (
            Point, Named, Doc, Loose, Record, Row, Pair, Colour, Plain, Path, Text, Xml, Json, Huh,
            SystemError, BufferStart, HandlerResponse,
        )
    },
    "Any": Any,
    "Decimal": decimal.Decimal,
    "UUID": uuid.UUID,
    "date": datetime.date,
    "datetime": datetime.datetime,
    "element": etree.fromstring,
    "Element": etree._Element,
    "nan": math.nan,
    "inf": math.inf,
}  # fmt: skip
"""What the cells of the tables in `payloads/README.md` may name."""
