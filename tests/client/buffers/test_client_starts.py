"""What a client takes for a buffer, and what it refuses."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from support import Facts

from durable_bus import BufferError, Text, Xml
from durable_bus.client.client import Client
from durable_bus.client.upload import BATCH_ITEMS
from durable_bus.errors import LimitExceeded, UsageError


def untouched(client: Client) -> list[tuple[object, ...]]:
    """What a refused start must leave as it was, once all that was asked for before is on disk."""
    client.start("echo", ["round trip"], buffer_id="round-trip").wait(60)
    facts = Facts(client.journal)
    return facts.rows("SELECT buffer_id, state, total FROM buffers ORDER BY buffer_id")


# The same id again


def test_the_same_id_with_the_same_content_is_the_buffer_that_exists(client: Client, tmp_path: Path) -> None:
    items = ["a", Text("<b"), Xml("<c/>"), *map(str, range(9_000))]
    first = client.start("echo", items, buffer_id="same")
    first.wait(60)
    again = client.start("echo", iter(items), buffer_id="same")
    assert (first.existed, again.existed) == (False, True)
    assert again.wait(60).total == len(items)
    door = tmp_path / "door"
    running = client.start("gate", [str(door)], buffer_id="same-open")
    assert client.start("gate", [str(door)], buffer_id="same-open").existed
    door.touch()
    running.wait(60)


OTHER = {
    "an item more": ("echo", ["a", "b", "c"], {}),
    "an item less": ("echo", ["a"], {}),
    "another order": ("echo", ["b", "a"], {}),
    "another form": ("echo", [Text("a"), Xml("b")], {}),
    "other cuts between items": ("echo", ["ab", ""], {}),
    "no items": ("echo", [], {}),
    "another target": ("describe", ["a", "b"], {}),
    "another collect": ("echo", ["a", "b"], {"collect": False}),
}


@pytest.mark.parametrize("other", OTHER)
def test_the_same_id_with_other_content_is_refused_and_changes_nothing(client: Client, other: str) -> None:
    client.start("echo", ["a", "b"], buffer_id="taken").wait(60)
    before = untouched(client)
    target, items, options = OTHER[other]
    with pytest.raises(BufferError, match="this id is used already") as refused:
        client.start(target, items, buffer_id="taken", **options)
    assert (refused.value.buffer_id, refused.value.exit_code) == ("taken", 2)
    assert untouched(client) == before
    assert [result.payload for result in client.buffer("taken").results()] == ["a", "b"]


# What is refused


def test_an_unknown_target_is_refused_with_the_names_that_are_known(client: Client) -> None:
    before = untouched(client)
    with pytest.raises(BufferError, match="unknown target 'nobody'; the listeners are: describe, echo, gate"):
        client.start("nobody", ["a"])
    assert untouched(client) == before


def test_no_items_are_refused(client: Client) -> None:
    before = untouched(client)
    with pytest.raises(BufferError, match="No items specified"):
        client.start("echo", [])
    assert untouched(client) == before


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 101, "buffer_1", "system.x", "é", "a\n"])
def test_a_buffer_id_that_is_no_name_is_refused(client: Client, name: str) -> None:
    before = untouched(client)
    with pytest.raises(BufferError):
        client.start("echo", ["a"], buffer_id=name)
    assert untouched(client) == before


REFUSED = {
    "a set": ({7}, UsageError, "item 5000: it cannot be journaled: set has no form"),
    "NaN": ({"x": [math.nan]}, UsageError, r"item 5000: it cannot be journaled: at x\[0\]: nan is not JSON"),
    "NUL": ("a\0b", UsageError, "item 5000: it cannot be journaled: a text with a NUL character"),
    "half a surrogate pair": ("\ud800", UsageError, "item 5000: .*surrogate"),
    "too long": (
        "x" * (8 * 1024 * 1024 + 1),
        LimitExceeded,
        "item 5000: 8388609 bytes, more than",
    ),
    "too long in bytes": ("é" * (4 * 1024 * 1024 + 1), LimitExceeded, "item 5000: 8388610 bytes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_one_item_that_cannot_be_journaled_refuses_the_whole_buffer(client: Client, what: str) -> None:
    item, error, message = REFUSED[what]
    before = untouched(client)
    items = [*["good"] * 5000, item, "good"]
    with pytest.raises(error, match=message):
        client.start("echo", items, buffer_id="refused")
    assert untouched(client) == before
    assert client.start("echo", ["good"]).wait(60).successful == 1


def test_a_generator_that_raises_leaves_nothing_and_its_own_exception(client: Client) -> None:
    before = untouched(client)

    def items() -> Iterator[str]:
        yield from (str(index) for index in range(9_000))
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        client.start("echo", items(), buffer_id="raising")
    assert untouched(client) == before
    assert client.start("echo", ["now"], buffer_id="raising").wait(60).total == 1


def test_one_str_is_not_taken_for_its_letters(client: Client) -> None:
    with pytest.raises(UsageError, match="not one str"):
        client.start("echo", "letters")


@pytest.mark.parametrize("items", [None, 7])
def test_items_that_are_none_are_refused(client: Client, items: Any) -> None:
    with pytest.raises(UsageError, match="items must be an iterable of items, not "):
        client.start("echo", items)


@pytest.mark.parametrize("option", ["target", "return_to"])
@pytest.mark.parametrize("count", [1, 20_000])
@pytest.mark.parametrize(("value", "reason"), [("\ud800", "surrogate"), (object(), "cannot be sent: ")])
def test_what_cannot_be_sent_is_refused(
    client: Client, option: str, count: int, value: Any, reason: str
) -> None:
    """As one frame, or as many."""
    before = untouched(client)
    options = {"target": "echo", option: value}
    with pytest.raises(UsageError, match=reason):
        client.start(items=["a"] * count, **options)
    assert untouched(client) == before


# Sizes


@pytest.mark.parametrize("count", [1, 2, BATCH_ITEMS - 1, BATCH_ITEMS, BATCH_ITEMS + 1, 25_000])
def test_any_number_of_items_arrives_whole_and_in_order(client: Client, count: int) -> None:
    buffer = client.start("echo", (f"{index}" for index in range(count)))
    assert buffer.wait(60).total == count
    assert [result.payload for result in buffer.results()] == [f"{index}" for index in range(count)]


@pytest.mark.slow
def test_items_of_any_size_up_to_the_limit_arrive_whole(client: Client) -> None:
    limit = 8 * 1024 * 1024
    sizes = [0, 1, 1023, 65_536, 65_537, 1024 * 1024, 1024 * 1024 + 1, 5_000_000, limit, 3]
    buffer = client.start("echo", [str(n % 10) * size for n, size in enumerate(sizes)])
    assert buffer.wait(60).successful == len(sizes)
    assert [(len(result.payload), result.payload[:1]) for result in buffer.results()] == [
        (size, str(n)[:size]) for n, size in enumerate(sizes)
    ]


def test_the_first_chunk_is_on_its_way_when_one_more_item_is_there(client: Client, facts: Facts) -> None:
    """And not when the second is whole: a small start is one frame, so it is looked whether more comes."""
    receiving = "SELECT count(*) FROM buffers WHERE buffer_id = 'ahead' AND state = 'receiving'"

    def items() -> Iterator[str]:
        yield from ["a"] * (BATCH_ITEMS + 1)
        facts.until(receiving)
        yield "the last"

    buffer = client.start("echo", items(), buffer_id="ahead")
    assert buffer.wait(60).successful == BATCH_ITEMS + 2


def test_characters_of_every_length_survive_also_at_the_edges_of_chunks(client: Client) -> None:
    items = ["é", "€", "😀", '"\\\n\t', "\u2028", "x" * 1_048_575 + "é", "é" * 524_288, "😀" * 262_145]
    buffer = client.start("echo", items)
    buffer.wait(60)
    assert [result.payload for result in buffer.results()] == items


def test_items_are_taken_from_a_generator_piece_by_piece(client: Client, facts: Facts) -> None:
    """The first are on disk before the last is made."""

    def items() -> Iterator[str]:
        yield from ["first"] * 30_000
        facts.until("SELECT total > 0 FROM buffers WHERE buffer_id = 'streamed' AND state = 'receiving'")
        assert facts.value("SELECT count(*) FROM in_flight WHERE buffer_id = 'streamed'") == 0
        yield "last"

    assert client.start("echo", items(), buffer_id="streamed").wait(60).total == 30_001


def test_elements_texts_and_dataclasses_can_be_mixed(client: Client) -> None:
    items = ["text", etree.fromstring("<a>1</a>"), Xml("<b/>"), Text("<c/>")]
    buffer = client.start("echo", items)
    buffer.wait(60)
    assert [result.payload for result in buffer.results()] == ["text", "<a>1</a>", "<b/>", "<c/>"]


# What a handler is told of an item


def test_metadata_says_which_item_it_is_and_has_a_key_that_stays(client: Client) -> None:
    buffer = client.start("describe", ["a", "b"], buffer_id="meta")
    buffer.wait(60)
    thread = Facts(client.journal).value("SELECT thread_id FROM buffers WHERE buffer_id = 'meta'")
    assert [result.payload for result in buffer.results()] == [
        f"{thread}/{index}|buffer_meta_w{index}|describe|False|{thread}/{index}|1|meta|{index}"
        for index in (0, 1)
    ]
