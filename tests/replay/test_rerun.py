"""`replay rerun` runs items again, with today's code, and compares; the journal is not written to."""

import json
import signal
from pathlib import Path

import pytest
from command_line import Command, durable_bus
from eventful import Story
from replays import as_json, fingerprints
from support import TESTS, Facts, until

HANDLERS = """
from durable_bus import Bus

bus = Bus("handlers")


@bus.listener("measure")
def measure(text: str) -> str:
    if text == "bad":
        raise ValueError(text)
    return f"<size of='{len(text)}' first='{text[:1]}'><long>{len(text) > 5}</long></size>"
"""


@pytest.fixture
def measured(journal: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an app, and a journal of what it answered. No bytecode: two versions of one size within a
    second would share it.
    """
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    folder = journal.parent
    (folder / "handlers.py").write_text(HANDLERS)
    words = ["one", "bad", "three", "sixteen", "hundred"] * 10
    (folder / "words.txt").write_text("\n".join(words))
    ran = durable_bus(
        "run",
        "handlers:bus",
        "measure",
        "--items",
        "words.txt",
        "--buffer-id",
        "words",
        "--workers",
        2,
        cwd=folder,
    )
    assert ran.code == 1, ran.err
    return folder


def test_rerun_of_the_same_code_finds_no_difference(measured: Path) -> None:
    before = fingerprints(measured / "journal.db")
    ran = durable_bus("replay", "rerun", "words", "handlers:bus", "--json", "--workers", 2, cwd=measured)
    assert ran.code == 0
    assert json.loads(ran.out) == {"compared": 50, "differ": []}
    assert fingerprints(measured / "journal.db") == before


@pytest.mark.slow
def test_rerun_takes_another_spelling_of_the_same_xml_for_the_same(measured: Path) -> None:
    spelling = '<size first=\\"{text[:1]}\\" of=\\"{len(text)}\\"><long >{len(text) > 5}</long></size>'
    source = HANDLERS.replace(
        "<size of='{len(text)}' first='{text[:1]}'><long>{len(text) > 5}</long></size>", spelling
    )
    assert source != HANDLERS
    (measured / "handlers.py").write_text(source)
    assert as_json("rerun", "words", "handlers:bus", cwd=measured) == {"compared": 50, "differ": []}


@pytest.mark.slow
def test_rerun_of_a_changed_line_finds_exactly_what_it_changes(measured: Path) -> None:
    (measured / "handlers.py").write_text(HANDLERS.replace("len(text) > 5", "len(text) > 6"))
    assert as_json("rerun", "words", "handlers:bus", cwd=measured) == {"compared": 50, "differ": []}
    (measured / "handlers.py").write_text(HANDLERS.replace("len(text) > 5", "len(text) > 4"))
    threes = [index for index in range(50) if index % 5 == 2]
    found = as_json("rerun", "words", "handlers:bus", cwd=measured, code=1)
    assert found == {"compared": 50, "differ": threes}
    ran = durable_bus("replay", "rerun", "words", "handlers:bus", "--show", 2, cwd=measured)
    assert ran.code == 1
    assert "item 2: three\n" in ran.out
    assert "    - <long>False</long>\n    + <long>True</long>\n" in ran.out
    assert ran.out.endswith("… and 8 differences more\n50 answers compared, 10 differ\n")


@pytest.mark.slow
def test_rerun_shows_no_fewer_differences_than_none(measured: Path) -> None:
    ran = durable_bus("replay", "rerun", "words", "handlers:bus", "--show", -3, cwd=measured)
    assert (ran.code, ran.out) == (2, "")
    (measured / "handlers.py").write_text(HANDLERS.replace("len(text) > 5", "len(text) > 4"))
    ran = durable_bus("replay", "rerun", "words", "handlers:bus", "--show", 0, cwd=measured)
    assert ran.out == "… and 10 differences more\n50 answers compared, 10 differ\n"


@pytest.mark.slow
def test_rerun_prints_no_control_characters(measured: Path) -> None:
    (measured / "words.txt").write_text("a\x1b]0;owned\x07b\n")
    command = ["--items", "words.txt", "--buffer-id", "evil", "--workers", 2]
    ran = durable_bus("run", "handlers:bus", "measure", *command, cwd=measured)
    assert ran.code == 0, ran.err
    # Of these, text that is representable in XML may have those above 127.
    (measured / "handlers.py").write_text(HANDLERS.replace('return f"', 'return "now\x9b31m" or f"'))
    ran = durable_bus("replay", "rerun", "evil", "handlers:bus", cwd=measured)
    assert (ran.code, ran.out.splitlines()[0]) == (1, "item 0: a\\u001b]0;owned\\u0007b")
    assert "    + now\\u009b31m\n" in ran.out
    assert "".join(ran.out.splitlines()).isprintable()


@pytest.mark.slow
def test_rerun_compares_failures_and_forms_too(measured: Path) -> None:
    (measured / "handlers.py").write_text(HANDLERS.replace('if text == "bad"', 'if text == "one"'))
    found = as_json("rerun", "words", "handlers:bus", cwd=measured, code=1)
    assert found["differ"] == [index for index in range(50) if index % 5 in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_rerun_that_is_ended_leaves_no_scratch_journal(measured: Path, number: signal.Signals) -> None:
    temporary = measured / "temporary"
    temporary.mkdir()
    waiting = 'open("begun", "w").close(); import time; time.sleep(600); return f"'
    (measured / "handlers.py").write_text(HANDLERS.replace('return f"', waiting))
    rerun = Command("replay", "rerun", "words", "handlers:bus", cwd=measured, TMPDIR=str(temporary))
    until((measured / "begun").exists, "an item is run again")
    assert list(temporary.glob("durable_bus_rerun_*/rerun.db"))
    rerun.process.send_signal(number)
    assert rerun.ended() == (4, "", "durable-bus: interrupted\n")
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_rerun_without_the_listener_is_refused(measured: Path) -> None:
    (measured / "handlers.py").write_text(HANDLERS.replace('"measure"', '"other"'))
    ran = durable_bus("replay", "rerun", "words", "handlers:bus", cwd=measured)
    assert (ran.code, ran.out) == (2, "")
    assert "unknown target 'measure'" in ran.err


@pytest.mark.slow
def test_rerun_compares_what_is_recorded_of_a_buffer_that_has_not_ended(story: Story) -> None:
    recorded = Facts(story.journal).recorded("plain")
    found = as_json("rerun", "plain", "apps.eventful:bus", "--journal", story.journal, cwd=TESTS)
    assert found == {"compared": recorded, "differ": []}
