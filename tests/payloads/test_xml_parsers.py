"""A parser that is fed takes what lxml's `fromstring` takes, and nobody meets what another has begun."""

import contextlib
import random
import signal
import threading
from collections.abc import Iterator

import pytest
from lxml import etree

from durable_bus.errors import MalformedItem
from durable_bus.payloads.xml_reading import HardenedParser, parse_bytes

DOCUMENTS = [
    b'<query id="q-1" lang="en"><text>battery recycling</text></query>',
    b"<a xmlns:x='u'><x:b c='1'>t&amp;&#10;&#x41;</x:b><![CDATA[x<y]]><!-- c --><?pi d?></a>",
    "<ä ö='ü'>€😀</ä>".encode(),
    b"<a><b/><b/>\r\n\t</a>\n",
    b"<a>&x;</a>",
    b"<a>" + b"<b>" * 200 + b"</b>" * 200 + b"</a>",
]
PIECES = [
    b"<", b">", b"/", b"&", b";", b"'", b'"', b"=", b"a", b"x:", b"xmlns", b" ", b"\n", b"\0", b"\x01",
    b"\xff", b"\xc3", b"\xa4", b"<!--", b"-->", b"<![CDATA[", b"]]>", b"<?", b"?>", b"&amp;", b"&#0;",
    b"&#x41;", b"&x;", b"<!DOCTYPE a>", b"\xef\xbb\xbf", b"<b>", b"</b>", b"</a>", b"<a>",
]  # fmt: skip
MUTATIONS = 20_000
TWO = b"it is refused for what stands behind the root"


class Interrupted(Exception):
    pass


def mutated(rng: random.Random) -> bytes:
    data = rng.choice(DOCUMENTS)
    for _ in range(rng.randint(0, 4)):
        start = rng.randint(1, len(data))
        end = start + rng.randint(0, 6)
        data = data[:start] + rng.choice([b"", rng.choice(PIECES), 2 * data[start:end]]) + data[end:]
    return data


def by_fromstring(data: bytes) -> bytes | None:
    try:
        return etree.tostring(etree.fromstring(data, HardenedParser()).getroottree())
    except etree.XMLSyntaxError:
        return None


def by_us(data: bytes) -> bytes | None:
    try:
        return etree.tostring(parse_bytes(data).getroottree())
    except MalformedItem as error:
        return TWO if "not one element" in str(error) else None


def test_it_takes_and_refuses_what_fromstring_does() -> None:
    rng = random.Random(1)
    taken = 0
    for data in (mutated(rng) for _ in range(MUTATIONS)):
        if not b"<@" < data < b"=":
            continue  # what comes before the root is looked at before
        wanted = by_fromstring(data)
        assert by_us(data) in (wanted, TWO), data
        taken += wanted is not None
    assert MUTATIONS / 10 < taken < MUTATIONS * 9 / 10


@pytest.mark.parametrize("length", [64 * 1024 - 7, 64 * 1024 - 6, 200_000])
def test_long_and_short_ones_are_read_alike(length: int) -> None:
    root = parse_bytes(b"<a>" + b"x" * length + b"</a>")
    assert (root.tag, root.text) == ("a", "x" * length)


def test_threads_do_not_mix_what_they_parse() -> None:
    wrong: list[object] = []

    def parse_many(number: int) -> None:
        for count in range(2_000):
            root = parse_bytes(b"<n%d><m>%d</m></n%d>" % (number, count, number))
            if (root.tag, root[0].text) != (f"n{number}", str(count)):
                wrong.append((number, count, etree.tostring(root)))

    threads = [threading.Thread(target=parse_many, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@contextlib.contextmanager
def interrupted_again_and_again(seconds: float) -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def test_who_is_interrupted_in_the_middle_leaves_nothing_to_the_next() -> None:
    """As by a signal whose handler a user's code has set, and which raises."""
    interrupted = number = 0
    while interrupted < 100:
        with contextlib.suppress(Interrupted), interrupted_again_and_again(0.0002):
            try:
                while True:
                    number += 1
                    root = parse_bytes(b"<n><m>%d</m></n>" % number)
                    assert root[0].text == str(number)
            except Interrupted:
                interrupted += 1
