"""Documents with programs and sessions in them, and what becomes of these when they are typed."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

__all__ = ["ROOT", "blocks_of", "commands_of", "environment", "typed", "write_programs"]

ROOT = Path(__file__).resolve().parent.parent

# Stands in for the sqlite3 shell where there is none: same arguments, same output for what documents ask.
SQLITE3_SHELL = f"""#!{sys.executable}
import sqlite3, sys
readonly, journal, sql = sys.argv[1:]
assert readonly == "-readonly"
connection = sqlite3.connect(f"file:{{journal}}?mode=ro", uri=True)
for row in connection.execute(sql):
    print("|".join("" if value is None else str(value) for value in row))
"""


def blocks_of(document: str) -> list[tuple[str, str]]:
    """Its fenced blocks: language and text."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def write_programs(blocks: list[tuple[str, str]], folder: Path) -> None:
    """The programs among them, as files with the names that their first lines give."""
    for kind, text in blocks:
        if kind == "python" and (name := re.match(r"# (\w+\.py)\n", text)):
            (folder / name[1]).write_text(text, encoding="utf-8")


def environment(folder: Path) -> dict[str, str]:
    """With `durable-bus`, `python` and `sqlite3` of this checkout, which are put into `folder`."""
    folder.mkdir()
    if shutil.which("sqlite3") is None:
        (folder / "sqlite3").write_text(SQLITE3_SHELL)
        (folder / "sqlite3").chmod(0o755)
    for name, module in (("durable-bus", "-m durable_bus "), ("python", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), sysconfig.get_path("scripts"), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def commands_of(session: str) -> list[tuple[str, str]]:
    """The lines of a session that are typed, each with what is shown below it."""
    commands: list[tuple[str, str]] = []
    for line in session.splitlines():
        if line.startswith("$ "):
            commands.append((line[2:], ""))
        else:
            command, shown = commands[-1]
            commands[-1] = (command, f"{shown}{line}\n")
    return commands


def typed(
    commands: list[tuple[str, str]], folder: Path, variables: dict[str, str]
) -> tuple[list[tuple[str, str]], str]:
    """The same commands, in one shell, each with what it really says; and what is said on stderr."""
    script = "\n".join(f"{command}\necho '--- {number}'" for number, (command, _) in enumerate(commands))
    # `$!` and $? must mean in the script what they mean when the session is typed.
    script = re.sub(r"&\necho '--- (\d+)'", r"& echo '--- \1'", script)
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=variables, capture_output=True, text=True, timeout=100
    )
    outputs = re.split(r"^--- \d+\n", done.stdout, flags=re.MULTILINE)
    return list(zip([command for command, _ in commands], outputs, strict=False)), done.stderr
