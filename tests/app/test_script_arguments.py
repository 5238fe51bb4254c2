"""A script that reads its arguments as it is imported finds them in its workers, as with multiprocessing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE_S, environment

SCRIPT = """
import sys
from durable_bus import Bus

bus = Bus("arguments")
GIVEN = sys.argv[1:]

@bus.listener("given")
def given(text: str) -> str:
    return ascii([GIVEN, sys.argv[1:]])

if __name__ == "__main__":
    engine = GIVEN[-1]
    with bus.running("journal.db", **({"engine": engine} if ":" in engine else {})) as client:
        buffer = client.start("given", ["a"])
        buffer.wait()
        print(*(result.payload for result in buffer.results()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", [["script.py"], ["-m", "script"]], ids=["script", "module"])
@pytest.mark.parametrize("last", ["--two", "process:1"], ids=["workers", "engine"])
def test_they_are_there(tmp_path: Path, form: list[str], last: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = ["one", os.fsdecode(b"\xff"), last]
    done = subprocess.run(
        [sys.executable, *form, *arguments],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.stdout, done.stderr) == (f"{[arguments, arguments]!a}\n", "")
