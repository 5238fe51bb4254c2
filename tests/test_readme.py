"""README.md says only what a test has seen: its programs run, its session gives what it shows."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from durable_bus.cli import commands as main_group
from durable_bus.examples import agents

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

# Stands in for the sqlite3 shell where there is none: same arguments, same output for what README asks.
SQLITE3_SHELL = f"""#!{sys.executable}
import sqlite3, sys
readonly, journal, sql = sys.argv[1:]
assert readonly == "-readonly"
connection = sqlite3.connect(f"file:{{journal}}?mode=ro", uri=True)
for row in connection.execute(sql):
    print("|".join("" if value is None else str(value) for value in row))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with README's programs in it."""
    for kind, text in BLOCKS:
        if kind == "python" and (name := re.match(r"# (\w+\.py)\n", text)):
            (tmp_path / name[1]).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    tools = tmp_path / "bin"
    tools.mkdir()
    if shutil.which("sqlite3") is None:
        (tools / "sqlite3").write_text(SQLITE3_SHELL)
        (tools / "sqlite3").chmod(0o755)
    command = tools / "durable-bus"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m durable_bus "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join([str(tools), sysconfig.get_path("scripts"), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


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
    assert outputs[0].startswith("2 of 2\naudit.py ")


@pytest.mark.slow
def test_the_session_with_kill_9_gives_what_it_shows(folder: Path, environment: dict[str, str]) -> None:
    (session,) = (text for kind, text in BLOCKS if kind == "console" and "kill -9" in text)
    commands: list[tuple[str, str]] = []
    for line in session.splitlines():
        if line.startswith("$ "):
            commands.append((line[2:], ""))
        else:
            command, shown = commands[-1]
            commands[-1] = (command, f"{shown}{line}\n")
    script = "\n".join(f"{command}\necho '--- {number}'" for number, (command, _) in enumerate(commands))
    # `$!` and $? must mean in the script what they mean when the session is typed.
    script = re.sub(r"&\necho '--- (\d+)'", r"& echo '--- \1'", script)
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )
    outputs = re.split(r"^--- \d+\n", done.stdout, flags=re.MULTILINE)
    logs = "".join(log.read_text() for log in folder.glob("*.log"))
    assert list(zip([c for c, _ in commands], outputs, strict=False)) == commands, done.stderr + logs


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
