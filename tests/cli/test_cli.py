"""The command line as a whole: help, version, what starts quickly, and what a terminal shows."""

import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest
from command_line import durable_bus, write_items
from support import environment, outcome, program

from durable_bus import __version__
from durable_bus.cli import COMMANDS


def test_help_lists_every_command(tmp_path: Path) -> None:
    ran = durable_bus("--help", cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    for name in COMMANDS:
        assert f"\n  {name} " in ran.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_the_journal_and_no_line_over_80_columns(
    tmp_path: Path, name: str
) -> None:
    ran = durable_bus(name, "--help", cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert all(len(line) <= 80 for line in ran.out.splitlines())
    assert "--journal" in ran.out or "COMMAND" in ran.out or name == "completion"


def test_without_a_command_the_help_goes_to_stderr(tmp_path: Path) -> None:
    ran = durable_bus(cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: durable-bus")


def test_version(tmp_path: Path) -> None:
    assert durable_bus("--version", cwd=tmp_path).out == f"durable-bus {__version__}\n"


@pytest.mark.slow
def test_the_journal_can_come_from_the_environment(tmp_path: Path) -> None:
    items = write_items(tmp_path, "one")
    command = ("run", "apps.plain:bus", "echo", "--items", items, "--workers", 1, "--quiet")
    assert durable_bus(*command, cwd=tmp_path, DURABLE_BUS_JOURNAL="elsewhere.db").code == 0
    assert (tmp_path / "elsewhere.db").exists()
    assert not (tmp_path / "journal.db").exists()


@pytest.mark.real_start
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], {"lxml", "rich", "sqlite_utils", "asyncio"}),
        (["status"], {"lxml", "rich", "sqlite_utils", "asyncio", "subprocess"}),
        (["query", "SELECT 1"], {"lxml", "asyncio", "pandas", "numpy"}),
        (
            ["run", "apps.plain:bus", "echo", "--items", "items.txt", "--journal", "new.db", "--quiet"],
            {"rich", "sqlite_utils", "asyncio", "multiprocessing", "random", "tempfile"},
        ),
    ],
)
def test_what_should_be_there_at_once_loads_nothing_heavy(
    tmp_path: Path, arguments: list[str], unwanted: set[str]
) -> None:
    items = write_items(tmp_path, "one")
    durable_bus("run", "apps.plain:bus", "echo", "--items", items, "--workers", 1, "--quiet", cwd=tmp_path)
    source = (
        "import json, sys\nfrom durable_bus.cli import main\n"
        f"code = main({arguments!r})\nprint(json.dumps([code, sorted(sys.modules)]))\n"
    )
    exit_code, out, err = outcome(program(tmp_path / "loads.py", source))
    assert exit_code == 0, err
    code, modules = json.loads(out.splitlines()[-1])
    assert code == 0
    assert unwanted.isdisjoint(modules)


def test_results_are_utf_8_whatever_the_locale_says(tmp_path: Path) -> None:
    ran = durable_bus(
        *("run", "apps.plain:bus", "echo", "--items", "-", "--workers", 1, "--quiet"),
        cwd=tmp_path,
        stdin="naïve 🙂\n".encode(),
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    assert (ran.code, ran.err) == (0, "")
    assert ">naïve 🙂<" in ran.out


def test_a_bug_is_not_taken_for_failed_items(tmp_path: Path) -> None:
    source = (
        "import sys\nfrom durable_bus import cli\n"
        "def broken(*_, **__): raise LookupError('who knows')\n"
        "cli.commands.invoke = broken\nsys.exit(cli.main([]))\n"
    )
    code, _, err = outcome(program(tmp_path / "broken.py", source))
    assert code == 70
    assert "LookupError: who knows" in err
    assert err.endswith("durable-bus: this is a bug of durable_bus\n")


@pytest.mark.slow
def test_on_a_terminal_progress_is_one_line_of_at_most_80_columns(tmp_path: Path) -> None:
    items = write_items(tmp_path, "no number", *["0.05"] * 20)
    arguments = ["run", "apps.plain:bus", "sleep", "--items", str(items), "--workers", "1"]
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-m", "durable_bus", *arguments],
        cwd=tmp_path,
        env=environment(TERM="xterm", COLUMNS="80"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = _everything(ours)
    assert process.returncode == 1
    lines = [_plain(line) for line in shown.replace("\r", "\n").split("\n")]
    bars = [line for line in lines if "/21" in line]
    assert bars
    assert any("1 failed" in line and "left" in line and "/s" in line for line in bars)
    assert all(len(line) <= 80 for line in bars)


def _everything(terminal: int) -> str:
    """What a terminal was written to, until nobody holds its other end."""
    parts = []
    while True:
        select.select([terminal], [], [], 60)
        try:
            parts.append(os.read(terminal, 65536))
        except OSError:
            os.close(terminal)
            return b"".join(parts).decode()


def _plain(line: str) -> str:
    """Without the terminal's control sequences."""
    import re

    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)
