"""An id that is used already, with other items: which index differs first, and what to do."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from command_line import durable_bus

from durable_bus import BufferError
from durable_bus.client.client import Client
from durable_bus.errors import OtherItems

MANY = [f"item {index}" for index in range(20_000)]
"""Three chunks."""


def refusal(client: Client, buffer_id: str, items: Iterable[object]) -> str:
    with pytest.raises(BufferError) as refused:
        client.start("echo", items, buffer_id=buffer_id)
    assert isinstance(refused.value, OtherItems)
    said = re.fullmatch("this id is used already, with other items(.*)", refused.value.error)
    assert said is not None
    return said[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["a", "x", {"c": 1}], "item 1 was the text 'b', and is the text 'x'"),
        (["a", "b", {"c": 2}], """item 2 was the json '{"c":1}', and is the json '{"c":2}'"""),
        (["a", "b"], """item 2 was the json '{"c":1}', and is not there"""),
        (["a", "b", {"c": 1}, "d" * 99], f"item 3 was not there, and is the text '{'d' * 60}…'"),
        (["<a/>", "b"], "item 0 was the text 'a', and is the xml '<a/>'"),
    ],
)
@pytest.mark.parametrize("kind", [list, iter])
def test_the_first_index_that_differs_is_named(
    client: Client, kind: type, given: list[object], said: str
) -> None:
    client.start("echo", ["a", "b", {"c": 1}], buffer_id="small")
    assert refusal(client, "small", kind(given)) == f": {said}; give other items another buffer_id"


def test_of_many_items_that_can_be_seen_again_all_are_compared(client: Client) -> None:
    client.start("echo", MANY, buffer_id="many")
    other = [*MANY[:-1], "another"]
    said = ": item 19999 was the text 'item 19999', and is the text 'another'; give other items"
    assert refusal(client, "many", other).startswith(said)


def test_of_many_items_that_are_seen_once_the_first_chunk_is_compared(client: Client) -> None:
    client.start("echo", MANY, buffer_id="once")
    said = ": item 7 was the text 'item 7', and is the text 'seven'"
    assert refusal(client, "once", iter([*MANY[:7], "seven", *MANY[8:]])).startswith(said)
    later = refusal(client, "once", iter([*MANY[:-1], "another"]))
    assert re.fullmatch(": the first [0-9,]+ are the same; give other items another buffer_id", later)


@pytest.mark.slow
def test_run_says_it_too_before_it_starts_anything(tmp_path: Path) -> None:
    for text, code in (('{"a": 1}\n[2]\n', 0), ('{"a": 1}\n[3]\n', 2)):
        (tmp_path / "items.jsonl").write_text(text)
        ran = durable_bus(
            "run",
            "apps.any_value:bus",
            "echo",
            "--items",
            "items.jsonl",
            "--buffer-id",
            "b",
            "--quiet",
            cwd=tmp_path,
        )
        assert ran.code == code, ran.err
    assert ran.error == (
        "buffer b: this id is used already, with other items: item 1 was the json '[2]', and is the json "
        "'[3]'; give other items another buffer_id"
    )
