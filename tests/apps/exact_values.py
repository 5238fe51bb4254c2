"""Values of which each must come back from `durable_bus.map` equal and of the same type."""

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import math
import re
import uuid
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple


@dataclasses.dataclass
class Point:
    x: int
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: float


class Pair(NamedTuple):
    left: Any
    right: Any


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    HI = "hi"


class Flags(enum.Flag):
    A = 1
    B = 2


class Loud(str):
    """A str that is no plain one."""


class Meters(float):
    pass


class Rows(list[int]):
    pass


CYCLE: list[Any] = [1]
CYCLE.append(CYCLE)
DEEP: Any = "bottom"
for _ in range(300):
    DEEP = [DEEP]

VALUES: dict[str, Any] = {
    "None": None,
    "True": True,
    "False": False,
    "zero": 0,
    "int": -7,
    "int 2**63 - 1": 2**63 - 1,
    "int -2**63": -(2**63),
    "int 2**63": 2**63,
    "int 2**64": 2**64,
    "int of 300 digits": 10**300,
    "float": 0.1,
    "whole float": 3.0,
    "large float": 1e22,
    "largest float": 1.7976931348623157e308,
    "smallest float": 5e-324,
    "-0.0": -0.0,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "complex": 1 - 2j,
    "empty str": "",
    "str": "plain é\U0001f600",
    "an element": "<a/>",
    "no element": "<think>…</think> 4",
    "almost an element": "  <a>",
    "JSON in a str": '{"a": 1}',
    "null in a str": "null",
    "spaces": " \r\n\t ",
    "controls": "\x01\x1b[31m\x7f\x85\u2028\ufeff\uffff",
    "NUL": "a\0b",
    "only NUL": "\0",
    "lone surrogate": "a\ud800",
    "a pair of surrogates": "\ud83d\ude00",
    "bytes": bytes(range(256)),
    "bytearray": bytearray(b"\0a"),
    "tuple": (1, "a"),
    "empty tuple": (),
    "empty list": [],
    "empty dict": {},
    "list": [1, None, True, 2.5, "<a/>", "a\0b"],
    "list with a tuple": [(1,)],
    "list with nan": [math.nan],
    "list with a lone surrogate": ["\ud800"],
    "list with a large int": [2**63, -(2**63)],
    "list of a list subclass": [Rows([1])],
    "deep list": DEEP,
    "dict in its order": {"b": 1, "a": {"": None, "ü\0": -0.0}},
    "dict of other keys": {1: "a", "1": "b"},
    "dict of bool keys": {True: 1},
    "dict of Loud keys": {Loud("a"): 1},
    "dict with a surrogate key": {"\ud800": 1},
    "OrderedDict": collections.OrderedDict(b=1, a=2),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "Counter": collections.Counter("abca"),
    "deque": collections.deque([1, 2], maxlen=2),
    "set": {1, 2, 3},
    "set of str": {"a", "b", "c", "d", "e"},
    "frozenset": frozenset({"x", "y"}),
    "dataclass": Point(1, ["a"]),
    "frozen dataclass": Frozen(0.5),
    "NamedTuple": Pair(1, (2,)),
    "Enum": Colour.RED,
    "IntEnum": Number.ONE,
    "StrEnum": Word.HI,
    "Flag": Flags.A | Flags.B,
    "IntEnum in a list": [Number.ONE, Word.HI],
    "str subclass": Loud("<a/>"),
    "float subclass": Meters(2.0),
    "list subclass": Rows([1]),
    "datetime": datetime.datetime(2026, 1, 2, 3, 4, 5, 678, datetime.UTC),
    "naive datetime": datetime.datetime(2026, 1, 2),
    "date": datetime.date(2026, 1, 2),
    "timedelta": datetime.timedelta(days=-1, microseconds=1),
    "Decimal": decimal.Decimal("1.10"),
    "Fraction": fractions.Fraction(1, 3),
    "UUID": uuid.UUID(int=7),
    "Path": Path("a/b"),
    "PurePosixPath": PurePosixPath("/"),
    "range": range(1, 9, 2),
    "slice-like": (None, Ellipsis, NotImplemented),
    "pattern": re.compile("a+"),
    "an exception": [ValueError],
    "a class": Point,
    "a function": math.sqrt,
    "long str": "é" * 100_000,
    "long str that begins an element": "<" + "x" * 100_000,
}
AS_JSON = {
    "None", "True", "False", "zero", "int", "int 2**63 - 1", "float", "whole float", "large float",
    "largest float", "smallest float", "-0.0", "empty list", "empty dict", "list", "dict in its order",
}  # fmt: skip
"""A str without NUL and half a surrogate pair is text. All others are pickles."""


def is_same(one: Any, other: Any) -> bool:
    """Equal, and of the same type all the way down; nan is itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one.hex() == other.hex()
    if isinstance(one, (set, frozenset)):
        return bool(one == other) and set(map(type, one)) == set(map(type, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            is_same(pair, another) for pair, another in zip(one.items(), other.items(), strict=True)
        )
    if isinstance(one, (list, tuple, collections.deque)):
        return len(one) == len(other) and all(map(is_same, one, other))
    return bool(one == other)
