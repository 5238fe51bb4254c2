"""A listener for every form a payload can arrive in, and one for every form an answer can leave in."""

import asyncio
import functools
import warnings
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from lxml import etree

from durable_bus import Bus, HandlerMetadata, Huh, SystemError, Text, Xml

bus = Bus("forms")


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0


@dataclass(frozen=True)
class Note:
    text: str


with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)

    @bus.listener("default")
    def default(payload):  # type: ignore[no-untyped-def]  # no annotation: as it is
        return type(payload).__name__


@bus.listener("element")
def element(payload: etree._Element) -> etree._Element:
    return payload


@bus.listener("inner")
def inner(payload: etree._Element) -> etree._Element:
    """The first child, with the tail that it has in its parent."""
    return payload[0]


@bus.listener("text")
def text(payload: str) -> Text:
    return Text(payload)


@bus.listener("guess")
def guess(payload: str) -> str:
    return payload


@bus.listener("xml")
def xml(payload: str) -> Xml:
    return Xml(payload)


@bus.listener("point")
def point(payload: Point) -> Point:
    return Point(payload.x + 1, payload.y + 1)


@bus.listener("note")
def note(payload: Note) -> Note:
    return Note(payload.text.upper())


@bus.listener("nothing")
def nothing(payload: str) -> None:
    return None


@bus.listener("huh")
def huh(payload: str) -> Huh:
    return Huh(f"what is {payload}?")


@bus.listener("system-error")
def system_error(payload: str) -> SystemError:
    return SystemError("no-such-thing", payload)


@bus.listener("only-metadata-by-annotation")
def only_metadata_by_annotation(payload: str, about: HandlerMetadata) -> str:
    return f"{about.own_name} {about.index}"


def on_a_loop_of_its_own(function: Callable[[str], Coroutine[None, None, str]]) -> Callable[[str], str]:
    @functools.wraps(function)
    def run(payload: str) -> str:
        return asyncio.run(function(payload))

    return run


@bus.listener("sync-around-async")
@on_a_loop_of_its_own
async def sync_around_async(payload: str) -> str:
    await asyncio.sleep(0)
    return payload
