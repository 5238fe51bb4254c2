"""What the documents name is there: views, columns, exit codes, commands, files, modules."""

import re
import sqlite3
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import REPOSITORY

from durable_bus import cli, errors
from durable_bus.journal.schema import migrate

PACKAGE = REPOSITORY / "durable_bus"
ROOMS = [path for top in (PACKAGE, REPOSITORY / "tests") for path in [top, *top.rglob("*")] if path.is_dir()]
DESIGN = (PACKAGE / "DESIGN.md").read_text()
DOCUMENTS = [
    *sorted(path for path in PACKAGE.rglob("*.md") if "_migrations" not in path.parts),
    *sorted((REPOSITORY / ".github").glob("*.md")),
    *(REPOSITORY / folder / "README.md" for folder in ("", "migrations", "tests", "tools")),
]

AT_THE_TOP = {"README.md", "durable_bus", "migrations", "pyproject.toml", "tests", "tools"}


def table(heading: str) -> list[list[str]]:
    """The cells of the table of DESIGN.md that begins with this row, without its first two rows."""
    lines = DESIGN[DESIGN.index(heading) :].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_the_views_of_the_design_are_those_of_the_journal_with_their_columns() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    views = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'")]
    there = {view: {row[1] for row in connection.execute(f"PRAGMA table_info({view})")} for view in views}
    connection.close()
    described = {}
    for name, columns in table("| view |"):
        outside_brackets = re.sub(r"\([^)]*\)", "", columns).partition(":")[0].partition(".")[0]
        described[name.strip("`")] = {column.strip() for column in outside_brackets.split(",")}
    assert described == there


def test_the_exit_codes_of_the_design_are_those_that_commands_end_with() -> None:
    of_errors = {
        one.exit_code
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, errors.DurableBusError)
    }
    of_commands = {value for name, value in vars(cli).items() if name.startswith("EXIT_")}
    assert {int(code) for code, _ in table("| exit code |")} == {0} | of_errors | of_commands


def test_the_design_names_every_command() -> None:
    named = {word for row in table("| command |") for word in re.findall(r"`([a-z]+)\b", row[0])}
    assert named == set(cli.COMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_file_that_a_document_names_is_there(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    named = re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|md|sql|toml)|(?:[\w.-]+/)+)`", text)
    near = [document.parent, REPOSITORY, *ROOMS]
    lacking = {name for name in named if not any((folder / name).exists() for folder in near)}
    assert {name for name in lacking if "NNNN" not in name} == set()


def test_every_new_name_of_the_changelog_can_be_imported() -> None:
    rows = re.findall(r"^\| `(\S+)` \| `(\S+)` \|$", (PACKAGE / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert len(rows) > 50
    assert [new for _, new in rows if new.startswith("durable_bus") and find_spec(new) is None] == []


def test_nothing_lies_at_the_top_of_the_repository_that_has_no_business_there() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this is no git checkout: nobody knows what is committed")
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("git is not there, which would say what is committed")
    if listed.returncode:
        pytest.skip(f"git says nothing of this checkout: {listed.stderr.decode(errors='replace')}")
    top = {name.partition("/")[0] for name in listed.stdout.decode().split("\0") if name}
    assert {name for name in top if not name.startswith(".")} == AT_THE_TOP
