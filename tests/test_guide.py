"""GUIDE.md: every block of it runs, and says what it shows."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from sessions import blocks_of, commands_of, environment, typed, write_programs

GUIDE = blocks_of("durable_bus/GUIDE.md")


NEEDS = {
    "table.py": ("pandas", importlib.util.find_spec("pandas")),
    "$ curl ": ("curl", shutil.which("curl")),
}
"""What some sessions need that may not be there, by what is said in them."""


@pytest.mark.slow
def test_every_session_of_the_guide_says_what_it_shows(tmp_path: Path) -> None:
    write_programs(GUIDE, tmp_path)
    variables = environment(tmp_path / "bin")
    sessions = [text for kind, text in GUIDE if kind == "console"]
    assert len(sessions) >= 6
    lacking: set[str] = set()
    for said_in_it, (name, found) in NEEDS.items():
        (needs_it,) = [session for session in sessions if said_in_it in session]
        if found is None:
            sessions.remove(needs_it)
            lacking.add(name)
    for session in sessions:
        commands = commands_of(session)
        said, errors = typed(commands, tmp_path, variables)
        assert said == commands, errors
    if lacking:
        pytest.skip(f"not here: {', '.join(lacking)}; the sessions with them were not run, the others were")


def test_every_program_of_the_guide_is_run_by_a_session() -> None:
    names = [text.partition("\n")[0].removeprefix("# ") for kind, text in GUIDE if kind == "python"]
    sessions = "".join(text for kind, text in GUIDE if kind == "console")
    unused = [name for name in names if name not in sessions and name.replace(".py", ":bus") not in sessions]
    assert unused == []
    assert {kind for kind, _ in GUIDE} == {"python", "console"}
