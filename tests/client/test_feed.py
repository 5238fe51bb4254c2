"""Items on their way into a stream: what it has already is compared, what it has not is sent."""

from collections.abc import Iterator
from typing import Any

import pytest
from support import until

from durable_bus.client.feed import Feed, Recorded
from durable_bus.errors import OtherItems
from durable_bus.payloads.exact import exact_texts
from durable_bus.payloads.packing import unpack
from durable_bus.payloads.settings import ValueForms
from durable_bus.payloads.values import Payload, ValueWriter

WRITER = ValueWriter(ValueForms)


class Sent:
    """In the place of an upload: what is sent, and of what the digest is."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.forms = b""
        self.digested: list[str] = []
        self.sealed = False

    def skip(self, body: bytes, forms: bytes) -> None:
        assert len(unpack(body)) == len(forms)
        self.digested += unpack(body)

    def add(self, body: bytes, forms: bytes) -> None:
        assert len(unpack(body)) == len(forms)
        assert not self.sealed
        self.texts += unpack(body)
        self.forms += forms

    def acknowledged(self) -> int:
        return len(self.texts)

    def seal(self) -> None:
        self.sealed = True


def written(values: list[Any], first_index: int) -> tuple[list[str], bytes]:
    return exact_texts(WRITER, values)


def payloads(*values: Any) -> list[Payload]:
    texts, forms = exact_texts(WRITER, list(values))
    return list(zip(texts, forms, strict=True))


def feed_of(items: Any, there: list[Any], upload: Sent | None) -> Feed:
    """Sealed where there is no upload."""
    recorded = iter(payloads(*there)) if there else iter(())
    known = Recorded(recorded, len(there))
    return Feed("b", iter(items), written, known, upload)  # type: ignore[arg-type]


def fed(items: Any, there: list[Any], *, most: int = 10_000) -> Sent:
    sent = Sent()
    feed = feed_of(items, there, sent)
    while not feed.exhausted:
        feed.some(most)
    return sent


@pytest.mark.parametrize("most", [1, 3, 10_000])
@pytest.mark.parametrize("there", [0, 1, 4, 5])
def test_what_is_missing_is_sent_and_what_is_there_is_only_compared(there: int, most: int) -> None:
    items = ["a", 1, (2,), None, "<b/>"]
    sent = fed(items, items[:there], most=most)
    assert sent.texts == [text for text, _ in payloads(*items)][there:]
    assert sent.digested == [text for text, _ in payloads(*items)][:there]


def test_it_reads_no_more_than_it_is_told() -> None:
    read: list[int] = []

    def source() -> Iterator[int]:
        for number in range(100_000):
            read.append(number)
            yield number

    sent = Sent()
    feed = feed_of(source(), [], sent)
    for most in (1, 2, 16, 17, 5_000):
        before = len(read)
        feed.some(most)
        assert len(read) - before <= most
        assert feed.read == len(read)
        until(lambda: feed.taken == feed.read, "what was read is sent, though nobody asks for more")
        assert len(sent.texts) == len(read)


@pytest.mark.parametrize("upload", [True, False], ids=["open", "sealed"])
@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["a", "x", "c"], "item 1 was the text 'b', and is the text 'x'"),
        (["a", "b", "C"], "item 2 was the text 'c', and is the text 'C'"),
        ([None, "b", "c"], "item 0 was the text 'a', and is the json 'null'"),
        (["a", "b", ("c",)], "item 2 was the text 'c', and is the pickle"),
        (["a", "b"], "3 of them are recorded, and 2 are given"),
        ([], "3 of them are recorded, and 0 are given"),
    ],
)
def test_the_first_item_that_differs_is_named(given: list[Any], why: str, upload: bool) -> None:
    for most in (1, 10):
        sent = Sent()
        feed = feed_of(given, ["a", "b", "c"], sent if upload else None)
        with pytest.raises(OtherItems, match=why):
            while not feed.exhausted:
                feed.some(most)
        assert sent.texts == []


def test_more_items_than_a_sealed_stream_has_are_refused() -> None:
    feed = feed_of("abcd", [*"abc"], None)
    with pytest.raises(OtherItems, match="there are 3 of them, and more are given"):
        while not feed.exhausted:
            feed.some(10)


def test_a_form_is_part_of_an_item() -> None:
    """The text 1 and the number 1 are written alike."""
    with pytest.raises(OtherItems, match="item 0 was the text '1', and is the json '1'"):
        fed([1], ["1"])


def test_pickles_are_the_same_when_their_values_are() -> None:
    """The same strings in one object and in two, and a set in another order."""
    twice = "".join(["tw", "ice"])
    one: list[Any] = [(twice, twice), {"a": {8, 0}}]
    other: list[Any] = [(twice, "".join(["twi", "ce"])), {"a": {0, 8}}]
    assert [text for text, _ in payloads(*one)] != [text for text, _ in payloads(*other)]
    sent = fed([*other, 3], one)
    assert sent.texts == ["3"]
    assert sent.digested == [text for text, _ in payloads(*one)], "of what is there"
    for differs in ({"a": {0, 9}}, {"a": frozenset({0, 8})}, {"a": (0, 8)}, {"b": {0, 8}}):
        with pytest.raises(OtherItems, match="item 1 was the pickle"):
            fed([other[0], differs], one)


def test_what_the_source_raises_comes_through_and_nothing_of_it_is_sent_twice() -> None:
    def source() -> Iterator[str]:
        yield "a"
        raise ZeroDivisionError

    sent = Sent()
    feed = feed_of(source(), [], sent)
    with pytest.raises(ZeroDivisionError):
        while not feed.exhausted:
            feed.some(10)
    until(lambda: feed.taken == 1, "what came before is sent")
    assert sent.texts == ["a"]
    assert (feed.read, sent.sealed) == (1, False)
