"""GUIDE.md: every block of it runs, and says what it shows."""

import importlib.util
from pathlib import Path

import pytest
from sessions import blocks_of, commands_of, environment, typed, write_programs

GUIDE = blocks_of("durable_bus/GUIDE.md")


@pytest.mark.slow
def test_every_session_of_the_guide_says_what_it_shows(tmp_path: Path) -> None:
    write_programs(GUIDE, tmp_path)
    variables = environment(tmp_path / "bin")
    sessions = [text for kind, text in GUIDE if kind == "console"]
    assert len(sessions) >= 6
    needs_pandas = [session for session in sessions if "table.py" in session]
    assert len(needs_pandas) == 1
    without = importlib.util.find_spec("pandas") is None
    for session in sessions:
        if not (without and session in needs_pandas):
            commands = commands_of(session)
            said, errors = typed(commands, tmp_path, variables)
            assert said == commands, errors
    if without:
        pytest.skip("pandas is not there for this Python: its session was not run, the others were")


def test_every_program_of_the_guide_is_run_by_a_session() -> None:
    names = [text.partition("\n")[0].removeprefix("# ") for kind, text in GUIDE if kind == "python"]
    sessions = "".join(text for kind, text in GUIDE if kind == "console")
    unused = [name for name in names if name not in sessions and name.replace(".py", ":bus") not in sessions]
    assert unused == []
    assert {kind for kind, _ in GUIDE} == {"python", "console"}
