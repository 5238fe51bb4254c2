"""Each room's README names every file and folder of the room, and none that is not there; no file is long."""

import ast
import re
from pathlib import Path

import pytest
from support import REPOSITORY

PACKAGE = REPOSITORY / "durable_bus"
ROOMS = [PACKAGE, *sorted({path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE})]
SCREEN_LINES = 60
TOPS = ("durable_bus", "tests", "tools", "migrations")
FILE_LINES = 400
FUNCTION_LINES = 70
CONSTRUCTOR_ARGUMENTS = 5


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(PACKAGE)))
def test_the_readme_of_a_room_names_all_that_is_in_it(room: Path) -> None:
    there = {path.name for path in room.glob("*.py") if path.name != "__init__.py" or room == PACKAGE}
    there |= {f"{path.name}/" for path in room.iterdir() if path.is_dir() and path.name != "__pycache__"}
    text = (room / "README.md").read_text()
    if room != PACKAGE:
        text = text.partition("\n## ")[0]  # behind it may stand what is looked up, such as a table of rules
    rows = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w./]+)`", row)]
    assert len(named) == len(set(named)), "a file stands in one place"
    assert set(named) == there
    assert room == PACKAGE or len(text.splitlines()) <= SCREEN_LINES


def test_the_package_has_few_rooms() -> None:
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    # 23 since the console: an HTTP server with pages, which only `cli` knows, fits into no other room.
    assert len(entries) <= 23, sorted(entries)


def test_the_walk_of_an_item_is_short_and_enters_no_file_twice() -> None:
    files = re.findall(r"^\| \d+ \| `([\w/]+\.py)` \|", (PACKAGE / "README.md").read_text(), re.MULTILINE)
    assert 10 < len(files) <= 20
    assert len(files) == len(set(files))
    assert [file for file in files if not (PACKAGE / file).is_file()] == []


@pytest.mark.parametrize("ending", ["py", "sql", "js", "css", "html"])
def test_no_file_of_code_is_longer_than_a_reader_can_keep_in_mind(ending: str) -> None:
    files = [path for top in TOPS for path in (REPOSITORY / top).rglob(f"*.{ending}")]
    lines = {path.relative_to(REPOSITORY): len(path.read_text().splitlines()) for path in files}
    assert files
    # A migration that is out does not change any more, and is one file, so that one that is missing is seen.
    released = Path("migrations/0001_journal.sql")
    assert {path: count for path, count in lines.items() if count > FILE_LINES and path != released} == {}


@pytest.mark.parametrize("top", TOPS)
def test_no_function_is_long_and_no_constructor_takes_much(top: str) -> None:
    long, many = {}, {}
    for path in (REPOSITORY / top).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                place = f"{path.relative_to(REPOSITORY)}:{node.lineno}"
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long[place] = lines
                taken = len(node.args.args) + len(node.args.kwonlyargs) - 1
                if node.name == "__init__" and taken > CONSTRUCTOR_ARGUMENTS:
                    many[place] = taken
    assert (long, many) == ({}, {})
