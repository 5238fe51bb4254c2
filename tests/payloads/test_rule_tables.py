"""The tables of `durable_bus/payloads/README.md`, row by row."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from apps.value_types import NAMES
from lxml import etree

from durable_bus.errors import MalformedItem, UnserialisableAnswer, UsageError
from durable_bus.payloads.forms import FORM_NAMES
from durable_bus.payloads.reading import AS_IT_IS, PayloadType
from durable_bus.payloads.settings import ValueForms
from durable_bus.payloads.values import ValueWriter

README = Path(__file__).parents[2] / "durable_bus" / "payloads" / "README.md"
WRITER = ValueWriter(ValueForms)


def rows(heading: str) -> list[list[str]]:
    section = README.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def value_of(cell: str) -> Any:
    return eval(cell.strip("`").replace(r"\|", "|"), dict(NAMES))


def payload_of(cell: str) -> tuple[str, int]:
    """Of a cell such as: text `a`. The text as in a Python literal."""
    word, _, text = cell.partition(" `")
    literal = text.removesuffix("`").replace("\\\\", "\\")
    if "\\x" in literal:
        literal = ast.literal_eval(f"'{literal}'")
    return literal, FORM_NAMES.index(word.lower())


@pytest.mark.parametrize("row", rows("What a value becomes"), ids=lambda row: row[0])
def test_a_value_becomes_what_the_table_says(row: list[str]) -> None:
    value, item, answer = row
    given = value_of(value)
    for cell, write, refusal in (
        (item, WRITER.item, UsageError),
        (answer, WRITER.answer, UnserialisableAnswer),
    ):
        if cell == "refused":
            with pytest.raises(refusal) as refused:
                write(given)
            assert "\n" not in str(refused.value)
            if isinstance(refused.value, UnserialisableAnswer):
                assert refused.value.answer == repr(given).encode(errors="backslashreplace").decode()
        else:
            assert write(given) == payload_of(cell)


@pytest.mark.parametrize("row", rows("What a handler gets"), ids=" ".join)
def test_a_handler_gets_what_the_table_says(row: list[str]) -> None:
    payload, annotation, arrives = row
    reads = PayloadType(value_of(annotation) if annotation else AS_IT_IS)
    if arrives == "malformed":
        with pytest.raises(MalformedItem) as refused:
            reads.load(*payload_of(payload))
        assert "\n" not in str(refused.value)
    elif arrives == "an element":
        assert isinstance(reads.load(*payload_of(payload)), etree._Element)
    else:
        got = reads.load(*payload_of(payload))
        assert got == value_of(arrives)
        assert type(got) is type(value_of(arrives))


def test_the_tables_are_not_empty() -> None:
    assert len(rows("What a value becomes")) >= 35
    assert len(rows("What a handler gets")) >= 45
