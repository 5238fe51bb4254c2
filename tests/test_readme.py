"""README.md says only what a test has seen: its programs run, its session gives what it shows."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

# Stands in for the sqlite3 shell where there is none: same arguments, same output for what README asks.
SQLITE3_SHELL = f"""#!{sys.executable}
import sqlite3, sys
connection = sqlite3.connect(f"file:{{sys.argv[1]}}?mode=ro", uri=True)
for row in connection.execute(sys.argv[2]):
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


def test_every_command_of_the_readme_has_a_help_text(environment: dict[str, str]) -> None:
    table = README.split("| command | does |")[1].split("\n\n")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    names = {name for cell in cells for name in re.findall(r"`([a-z]+)", cell)}
    listed = subprocess.run(
        ["durable-bus", "--help"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    commands = set(re.findall(r"^  ([a-z]+) ", listed.split("Commands:")[1], re.MULTILINE))
    assert names == commands
