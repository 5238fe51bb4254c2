"""README.md says only what a test has seen: its programs run, its session gives what it shows."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import sessions
from sessions import ROOT, blocks_of, write_programs

from durable_bus.cli import commands as main_group
from durable_bus.examples import agents

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = blocks_of("README.md")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with README's programs in it."""
    write_programs(BLOCKS, tmp_path)
    return tmp_path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return sessions.environment(tmp_path / "bin")


def test_the_twenty_lines_run_and_run_again_without_running_anything(
    folder: Path, environment: dict[str, str]
) -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "audit.py"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith("4 of 4\nask.py ")


@pytest.mark.slow
@pytest.mark.parametrize("program", ["squares.py", "slow:bus"])
def test_the_session_with_kill_9_gives_what_it_shows(
    program: str, folder: Path, environment: dict[str, str]
) -> None:
    killing = [text for kind, text in BLOCKS if kind == "console" and "kill -9" in text]
    assert len(killing) == 2
    (session,) = (text for text in killing if program in text)
    commands = sessions.commands_of(session)
    said, errors = sessions.typed(commands, folder, environment)
    logs = "".join(log.read_text() for log in folder.glob("*.log"))
    assert said == commands, errors + logs


@pytest.mark.slow
def test_the_session_with_the_limited_service_gives_what_it_shows(
    folder: Path, environment: dict[str, str]
) -> None:
    pytest.importorskip("httpx", reason="there is no httpx for this Python")
    (session,) = (text for kind, text in BLOCKS if kind == "console" and "limited_service" in text)
    commands = sessions.commands_of(session)
    said, errors = sessions.typed(commands, folder, environment)
    day = re.compile(r"^\d{4}-\d\d-\d\d", re.MULTILINE)
    logs = (folder / "ask.log").read_text()
    assert [(command, day.sub("DAY", text)) for command, text in said] == [
        (command, day.sub("DAY", text)) for command, text in commands
    ], errors + logs


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "migrations/README.md"])
def test_the_sqlite3_shell_is_shown_with_a_journal_that_it_opens_read_only(document: str) -> None:
    opened = re.findall(r"\bsqlite3 ([^`\n]*?\.db\S*)", (ROOT / document).read_text(encoding="utf-8"))
    assert opened
    assert [how for how in opened if not how.startswith("-readonly ") and "?mode=ro" not in how] == []


def test_the_reference_lists_every_command_with_its_arguments_and_options() -> None:
    table = README.split("| command | does |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(.*?)` \| .*? \|(.*)\|$", table, re.MULTILINE)
    listed = {synopsis: set(re.findall(r"`(--[a-z-]+)`", options)) for synopsis, options in rows}
    assert listed == {synopsis: options - {"--journal"} for synopsis, options in commands()}
    assert [synopsis for synopsis, options in commands() if "--journal" not in options] == [
        "completion SHELL"
    ]


def test_the_help_of_every_command_has_an_example_of_it() -> None:
    without = [name for name, text in helps() if not re.search(rf"^ .*durable-bus {name}\b", text, re.M)]
    assert without == []


class Leaf(NamedTuple):
    """A command that is no group of others."""

    name: str
    command: click.Command
    context: click.Context


def leaves(command: click.Command, *names: str) -> Iterator[Leaf]:
    """The command, or all that are below the group that it is."""
    context = click.Context(command, info_name=" ".join(names) or "durable-bus")
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            one = command.get_command(context, name)
            assert one is not None
            yield from leaves(one, *names, name)
    else:
        yield Leaf(" ".join(names), command, context)


def helps() -> Iterator[tuple[str, str]]:
    """Each command's name and its help as it is printed, without the usage line."""
    for name, command, context in leaves(main_group):
        yield name, command.get_help(context).partition("\n\n")[2]


def commands() -> Iterator[tuple[str, set[str]]]:
    """Each command as its help calls it, and its long options."""
    for name, command, context in leaves(main_group):
        arguments = [one.make_metavar(context) for one in command.params if isinstance(one, click.Argument)]
        options = [one for one in command.params if isinstance(one, click.Option)]
        # "COMMIT|TIME" would end a cell of the table
        synopsis = " ".join([name, *(argument.split("|")[0] for argument in arguments)])
        yield synopsis, {max(option.opts, key=len) for option in options}


def test_the_agent_of_the_readme_is_the_example() -> None:
    (shown,) = [text for kind, text in BLOCKS if kind == "python" and "planner" in text]
    assert shown in Path(agents.__file__).read_text()
