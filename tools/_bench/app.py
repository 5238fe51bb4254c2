"""What is run: items, the bus that durable_bus's workers import, and the same work for multiprocessing."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from lxml import etree

from durable_bus import Bus, Text

WARMING_S = 0.02
"""How long an item that warms takes: long enough that one worker cannot take them all."""
AWAITS_S = 0.1
AWAITS_CONCURRENCY = 500

bus = Bus("bench")


@bus.listener("echo")
def echo(element: etree._Element) -> etree._Element:
    """What durable_bus runs: it parses before and serialises after."""
    return element


@bus.listener("doze", concurrency=AWAITS_CONCURRENCY)
async def doze(element: etree._Element) -> etree._Element:
    """As `echo`, after waiting for something, as a call of somebody's API would."""
    await asyncio.sleep(AWAITS_S)
    return element


@bus.listener("keep")
def keep(text: str) -> Text:
    return Text(text)


@bus.listener("keep-text")
def keep_text(text: str) -> str:
    return text


@bus.listener("keep-json")
def keep_json(value: dict[str, object]) -> dict[str, object]:
    if "fail" in value:
        raise ValueError("asked to")
    return value


@bus.listener("warm")
def warm(text: str) -> str:
    time.sleep(WARMING_S)
    return text


def echo_text(text: str) -> str:
    """What multiprocessing runs: the same work on the same text."""
    return etree.tostring(etree.fromstring(text), encoding="unicode")


def warm_text(text: str) -> str:
    time.sleep(WARMING_S)
    return echo_text(text)


# ---- jobs that take so long, for any number of workers


def burn(cpu_s: float, text: str) -> str:
    """Keep a core busy: for so long by the clock of this thread, which stands while others have the core."""
    end_s = time.thread_time() + cpu_s
    while time.thread_time() < end_s:
        pass
    return text


def sleep(seconds: float, text: str) -> str:
    time.sleep(seconds)
    return text


class Job(NamedTuple):
    label: str
    function: Callable[[str], str]
    """What multiprocessing runs."""
    item_s: float
    is_exact: bool = True
    sleeps: bool = False


JOBS = {
    "echo": Job("XML echo", echo_text, 20e-6, is_exact=False),
    "burn_100us": Job("100 us of CPU", partial(burn, 100e-6), 100e-6),
    "burn_1ms": Job("1 ms of CPU", partial(burn, 1e-3), 1e-3),
    "sleep_250us": Job("250 us of sleep", partial(sleep, 250e-6), 250e-6, sleeps=True),
    "sleep_1ms": Job("1 ms of sleep", partial(sleep, 1e-3), 1e-3, sleeps=True),
    "sleep_10ms": Job("10 ms of sleep", partial(sleep, 10e-3), 10e-3, sleeps=True),
}
"""By the name of the listener that does the same for durable_bus."""


def listen(name: str, function: Callable[[str], str]) -> None:
    @bus.listener(name)
    def job(text: str) -> str:
        return function(text)


for _name in ("sleep_250us", "burn_100us", "burn_1ms", "sleep_1ms", "sleep_10ms"):
    listen(_name, JOBS[_name].function)


# ---- items

_SUBJECTS = (
    "battery recycling",
    "container shipping",
    "heat pump subsidies",
    "soil erosion",
    "vaccine storage",
    "satellite imagery",
    "grid frequency",
)
_ASPECTS = (
    "market share",
    "patents since",
    "failures near",
    "cost per tonne",
    "news from Zürich",
    "regulation, draft",
    "open positions",
    "suppliers within",
    "forecasts for",
    "lawsuits over",
)


def query(index: int) -> str:
    """The search with this number: one of many that an agent fans out."""
    return (
        f'<query id="q-{index:07d}" lang="en">'
        f"<text>{_SUBJECTS[index % 7]} {_ASPECTS[index // 7 % 10]} {index % 1000}</text></query>"
    )


def search(index: int) -> str:
    """The same as plain text. For jobs that do nothing with it: of XML durable_bus would see that it is well
    formed, and the others would not.
    """
    return (
        f"search q-{index:07d}, in English, newest first: "
        f"{_SUBJECTS[index % 7]} {_ASPECTS[index // 7 % 10]} {index % 1000}"
    )


_NAMES = ("Ada Lovelace", "Alan Turing", "Grace Hopper", "Kurt Gödel", "Edsger Dijkstra", "Barbara Liskov")
_CITIES = ("London", "Paris", "Zurich", "Vienna", "Madrid", "Helsinki", "Kraków", "Lisbon")
_NOTES = (
    "leave at the door of flat",
    "ring twice, <b>not</b> thrice, at number",
    "nothing to remark on",
    "gate code",
    "call before",
)


def order(index: int) -> str:
    """The order with this number, as a shop would send it."""
    lines = "".join(
        f'<line sku="A-{(index + number) % 977:04d}" qty="{index % 9 + 1}">'
        f"Paper, {80 + 5 * number} g &amp; white</line>"
        for number in range(1 + index % 3)
    )
    return (
        f'<order id="o-{index:08d}" currency="EUR" placed="2026-03-{index % 28 + 1:02d}">'
        f'<customer tier="{index % 3}"><name>{_NAMES[index % 6]}</name>'
        f"<city>{_CITIES[index % 8]}</city></customer>"
        f'<lines>{lines}</lines><note lang="en">{_NOTES[index % 5]} {index % 41}</note></order>'
    )


PAYLOADS: dict[str, Callable[[int], str]] = {"query": query, "order": order}
"""By the name that --payload takes."""


def items_of(payload: str, count: int) -> list[str]:
    return [PAYLOADS[payload](index) for index in range(count)]


def searches(count: int) -> list[str]:
    return [search(index) for index in range(count)]
