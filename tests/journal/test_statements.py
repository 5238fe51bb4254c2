"""Every named statement is somebody's: SQL that nobody runs goes. And what many rows at once become."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import REPOSITORY

from durable_bus.journal.journal import Journal
from durable_bus.journal.statements import Statements, load

PACKAGE = REPOSITORY / "durable_bus"
ALL_ARE_ASKED = {"check.sql", "questions.sql"}
"""Whoever loads these goes through all that is in them."""
FILES = sorted(path.name for path in Path(PACKAGE, "journal", "sql").glob("*.sql"))


@pytest.mark.parametrize("file_name", [name for name in FILES if name not in ALL_ARE_ASKED])
def test_every_named_statement_is_named_by_some_code(file_name: str) -> None:
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    named = set(re.findall(r'"(\w+)"', code))
    assert [name for name in load(file_name) if name not in named] == []


@pytest.mark.parametrize("file_name", FILES)
def test_no_parameter_has_a_number(file_name: str) -> None:
    """A number is a name: Python would ask SQLite for it each time, and search for it among all of them."""
    numbered = {name: re.findall(r"\?[0-9@]", text) for name, text in load(file_name).items()}
    assert {name: found for name, found in numbered.items() if found} == {}


@pytest.fixture
def statements(tmp_path: Path) -> Iterator[Statements]:
    journal = Journal.open(tmp_path / "journal.db")
    yield journal.statements
    journal.close()


TEXTS = [f"text {number}" for number in range(613)]
"""As many as take a statement of each length."""


@pytest.mark.parametrize("others", [[], [(7 << 32) + 99]], ids=["at_the_end", "before_other_rows"])
def test_rows_get_consecutive_keys_in_the_order_of_their_texts(
    statements: Statements, others: list[int]
) -> None:
    statements.run_each("add_item", [(key, "there before", 0) for key in others])
    first_key = 5 << 32
    assert statements.run_rows("add_items", "last_item", (first_key, 1), [*map(str.encode, TEXTS)]) == 613
    kept = statements.connection.execute(
        "SELECT item_key, payload, is_xml FROM item WHERE item_key < 7 << 32 ORDER BY item_key"
    )
    assert kept.fetchall() == [(first_key + number, text, 1) for number, text in enumerate(TEXTS)]


@pytest.mark.parametrize("count", [1, 613])
def test_of_results_that_are_there_only_the_missing_are_added(statements: Statements, count: int) -> None:
    first_key = 5 << 32
    statements.connection.execute("PRAGMA foreign_keys = OFF")
    facts = {"success": False, "is_xml": False, "answer_id": 1}
    statements.run("add_result", item_key=first_key, payload="the first", **facts)
    constants = (first_key, True, True, 2)
    texts = [*map(str.encode, TEXTS[:count])]
    assert statements.run_rows("add_results", "last_result", constants, texts) == count - 1
    kept = statements.connection.execute(
        "SELECT item_key, payload, success, is_xml, answer_id FROM result ORDER BY item_key"
    ).fetchall()
    assert kept[0] == (first_key, "the first", 0, 0, 1)
    assert kept[1:] == [(first_key + number, text, 1, 1, 2) for number, text in enumerate(TEXTS[:count])][1:]
