"""What a type checker tells a user: nothing of correct code, and of each mistake the line."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import TESTS

USER = TESTS / "app" / "typed" / "user.py"
MISTAKES = [
    number for number, line in enumerate(USER.read_text().splitlines(), 1) if line.endswith("# error")
]


def told(*command: object, folder: Path) -> str:
    """What a checker says, once it has said something: exit code 1 is that it has found errors."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], cwd=folder, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def mypy(folder: Path) -> list[tuple[int, str]]:
    text = told(
        "mypy", "--strict", "--no-error-summary", "--cache-dir", folder / "cache", "user.py", folder=folder
    )
    return [(int(line), what) for line, what in re.findall(r"^user\.py:(\d+): error: (.*)", text, re.M)]


def pyright(folder: Path) -> list[tuple[int, str]]:
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    text = told("basedpyright", "--outputjson", "--pythonpath", sys.executable, "user.py", folder=folder)
    found = [one for one in json.loads(text)["generalDiagnostics"] if one["severity"] == "error"]
    return [(one["range"]["start"]["line"] + 1, one["message"]) for one in found]


@pytest.mark.slow
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_checker_sees_every_mistake_of_a_user_and_nothing_else(
    tmp_path: Path, checker: Callable[[Path], list[tuple[int, str]]]
) -> None:
    shutil.copy(USER, tmp_path)
    found = checker(tmp_path)
    assert sorted({line for line, _ in found}) == MISTAKES, found
    assert len(MISTAKES) >= 15
