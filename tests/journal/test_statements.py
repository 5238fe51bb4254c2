"""Every named statement is executed by some code: SQL that nobody runs goes. And what many rows become."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import REPOSITORY

from durable_bus.journal.journal import WRITER_SQL, Journal
from durable_bus.journal.statements import Statements, load

PACKAGE = REPOSITORY / "durable_bus"
FILES = sorted(path.name for path in Path(PACKAGE, "journal", "sql").glob("*.sql"))
EXECUTED_BY = {
    **dict.fromkeys(WRITER_SQL, ("journal/*.py",)),
    "reader.sql": (
        "journal/reader.py",
        "journal/results.py",
        "journal/admin/changes.py",
        "cli/*.py",
        "web/*.py",
    ),
    "history.sql": ("journal/admin/history.py", "journal/admin/check.py", "journal/completeness.py"),
    "metrics.sql": ("journal/admin/metrics.py",),
    "commits.sql": ("journal/journal.py", "journal/admin/metrics.py", "journal/admin/console.py"),
    "salvage.sql": ("journal/admin/salvage.py",),
    "trace.sql": ("journal/admin/traced.py",),
    "console.sql": ("journal/admin/moment.py", "journal/admin/console.py"),
    "console_buffers.sql": ("journal/admin/moment.py", "journal/admin/console.py"),
}
ALL_ARE_ASKED = {"check.sql", "check_pace.sql"}
"""Whoever loads them goes through all that is in them."""
METHODS = {
    "run", "run_rows", "run_each", "insert", "all", "all_of", "some", "one", "value", "row", "rows",
    "write", "_write", "_rows", "_value", "_pages_of_items", "_pages", "rows_of", "row_of", "_listed",
}  # fmt: skip
"""Of `Statements`, and of those who pass on a name to one of them."""


def executed_by(path: Path) -> set[str]:
    """The names that stand where a statement is executed: in a call, in a loop around one, in brackets."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        places: list[ast.expr] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            places = node.args
        elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
            places = node.iter.elts
        elif isinstance(node, ast.Subscript):
            text = ast.unparse(node.value)
            places = [node.slice] if text.startswith("load(") or text.endswith("_statements") else []
        found |= {
            place.value
            for place in places
            if isinstance(place, ast.Constant) and isinstance(place.value, str)
        }
    return found


def test_every_file_of_statements_is_somebodys() -> None:
    assert {*EXECUTED_BY, *ALL_ARE_ASKED} == set(FILES)


@pytest.mark.parametrize("file_name", EXECUTED_BY)
def test_every_named_statement_is_executed_by_some_code(file_name: str) -> None:
    paths = [path for pattern in EXECUTED_BY[file_name] for path in PACKAGE.glob(pattern)]
    executed = set[str]().union(*map(executed_by, paths))
    assert [name for name in load(file_name) if name not in executed] == []


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
    assert statements.run_rows("add_items", "last_item", (first_key, 1), TEXTS) == 613
    kept = statements.connection.execute(
        "SELECT item_key, payload, form FROM item WHERE item_key < 7 << 32 ORDER BY item_key"
    )
    assert kept.fetchall() == [(first_key + number, text, 1) for number, text in enumerate(TEXTS)]


@pytest.mark.parametrize("count", [1, 613])
def test_of_results_that_are_there_only_the_missing_are_added(statements: Statements, count: int) -> None:
    first_key = 5 << 32
    statements.connection.execute("PRAGMA foreign_keys = OFF")
    statements.run_rows("add_results", "last_result", (first_key, False, False, 1), ["the first"])
    constants = (first_key, True, True, 2)
    assert statements.run_rows("add_results", "last_result", constants, TEXTS[:count]) == count - 1
    kept = statements.connection.execute(
        "SELECT item_key, payload, success, form, answer_id FROM result ORDER BY item_key"
    ).fetchall()
    assert kept[0] == (first_key, "the first", 0, 0, 1)
    assert kept[1:] == [(first_key + number, text, 1, 1, 2) for number, text in enumerate(TEXTS[:count])][1:]
