"""`results`, `wait` and `status`: what the journal tells, with a supervisor that lives, hangs or is dead."""

import json
import os
import signal
from pathlib import Path

import pytest
from command_line import Command, durable_bus, write_items
from support import Facts, RunLog, kill, until, workers_of

from durable_bus.cli.output import latest_results, render
from durable_bus.journal.reader import JournalReader

SLOW_START = ("--workers", 1, "--quiet")


def _ran(tmp_path: Path, app: str, target: str, *items: object) -> None:
    path = write_items(tmp_path, *items)
    durable_bus(
        "run", f"apps.{app}:bus", target, "--items", path, "--buffer-id", "b", *SLOW_START, cwd=tmp_path
    )


# results


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["xml", "jsonl", "csv"])
def test_results_are_what_run_has_printed(tmp_path: Path, format_name: str) -> None:
    items = write_items(tmp_path, "x", "<a>é &amp; \u2028</a>", '"quoted", \\ and\ttab', "<broken")
    command = (
        "run",
        "apps.forms:bus",
        "guess",
        "--items",
        items,
        "--format",
        format_name,
        "--buffer-id",
        "b",
    )
    ran = durable_bus(*command, *SLOW_START, cwd=tmp_path)
    assert ran.code == 1
    again = durable_bus("results", "b", "--format", format_name, cwd=tmp_path)
    assert (again.code, again.out, again.err) == (1, ran.out, "")


@pytest.mark.slow
def test_json_lines_that_sqlite_writes_are_those_that_python_writes(tmp_path: Path, journal: Path) -> None:
    _ran(
        tmp_path, "forms", "guess", "x", "<a>é &amp; \u2028</a>", '"q", \\ \ttab\x7f', "<broken", "🙂", "</b>"
    )
    with JournalReader(journal) as reader:
        content = reader.content("b")
        assert content is not None
        lines = "".join(render(latest_results(reader, [content]), 6, "jsonl"))
        assert [json.loads(line) for line in lines.split("\n")[:-1]] == [
            result.to_json() for result in latest_results(reader, [content])
        ]
        failed = "".join(render(reader.results(content.buffer_seq, failed_only=True), None, "jsonl"))
        assert [json.loads(line)["index"] for line in failed.split("\n")[:-1]] == [3, 5]


ANSWERS = """
from durable_bus import Bus, HandlerResponse, Huh, SystemError, Text

bus = Bus("answers")


@bus.listener("answer")
def answer(text: str) -> object:
    if text.startswith("huh"):
        return Huh(f"{text} what?\\nwhy: when?")
    if text == "system":
        return SystemError("busy", "later & later")
    if text == "route":
        return HandlerResponse(Text(text), to="nobody")
    if text == "raise":
        raise ValueError("no good")
    return text
"""
ANSWERED = {
    0: "huh what? why: when?",
    1: "busy: later & later",
    2: "routing: answer sent to the unknown name 'nobody'",
    3: "exception: ValueError: no good",
    5: "huh what? why: when?",
    6: "huh! what? why: when?",
}


def _answered(tmp_path: Path) -> None:
    """A buffer with failures of every sort: what handlers raise, what they answer, what the bus refuses."""
    (tmp_path / "answers.py").write_text(ANSWERS)
    items = write_items(tmp_path, "huh", "system", "route", "raise", "fine", "huh", "huh!")
    arguments = ("run", "answers:bus", "answer", "--items", items, "--buffer-id", "b", "--quiet")
    assert durable_bus(*arguments, cwd=tmp_path).code == 1


@pytest.mark.slow
def test_why_an_item_failed_is_one_line_whoever_said_so(tmp_path: Path, journal: Path) -> None:
    _answered(tmp_path)
    with JournalReader(journal) as reader:
        content = reader.content("b")
        assert content is not None
        results = list(reader.results(content.buffer_seq))
        assert {r.index: r.error for r in results if not r.success} == ANSWERED
        recorded, _ = reader.results_after(content.buffer_seq, 0)
        assert sorted(recorded) == results
    lines = durable_bus("results", "b", "--format", "jsonl", cwd=tmp_path).out.splitlines()
    assert [json.loads(line) for line in lines] == [result.to_json() for result in results]
    table = durable_bus("results", "b", "--failed", "--format", "csv", cwd=tmp_path).out
    assert ",huh what? why: when?,1," in table


def test_failed_shows_failed_items_only(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("hello")
    _ran(tmp_path, "reading", "read", tmp_path / "here", tmp_path / "missing")
    lines = durable_bus("results", "b", "--failed", "--format", "jsonl", cwd=tmp_path).out.splitlines()
    assert [json.loads(line)["index"] for line in lines] == [1]
    document = durable_bus("results", "b", "--failed", cwd=tmp_path).out
    assert document.startswith('<results><item index="1" success="false"><SystemError>')
    assert document.endswith("</item></results>\n")
    table = durable_bus("results", "b", "--failed", "--format", "csv", cwd=tmp_path).out
    assert table.splitlines()[1].startswith("1,false,")


@pytest.mark.slow
def test_pages_are_put_together_without_a_seam(tmp_path: Path) -> None:
    _ran(tmp_path, "plain", "echo", *range(12_345))
    lines = durable_bus("results", "b", "--format", "jsonl", cwd=tmp_path).out.splitlines()
    assert [json.loads(line)["payload"] for line in lines] == [str(index) for index in range(12_345)]


@pytest.mark.slow
def test_results_of_an_open_buffer_are_those_recorded_and_the_rest_is_missing(
    tmp_path: Path, facts: Facts, run_log: RunLog
) -> None:
    command = _at_the_gate(tmp_path, facts, run_log)
    command.kill()
    ran = durable_bus("results", "b", cwd=tmp_path)
    assert ran.code == 1
    assert ran.error == "b has not ended: 10 of 12 items are recorded"
    missing = [f'<item index="{index}" success="false" missing="true"/>' for index in (10, 11)]
    assert ran.out.endswith(f"</item>{''.join(missing)}</results>\n")


@pytest.mark.slow
def test_a_reader_of_stdout_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    _ran(tmp_path, "plain", "echo", *range(12_345))
    command = Command("results", "b", "--format", "jsonl", cwd=tmp_path)
    assert command.process.stdout is not None
    command.process.stdout.read(10)
    command.process.stdout.close()
    assert command.process.stderr is not None
    with command.process.stderr:
        assert command.process.stderr.read() == b""
    assert command.process.wait(60) == 141


@pytest.mark.slow
def test_a_full_disk_under_stdout_is_one_line(tmp_path: Path) -> None:
    _ran(tmp_path, "plain", "echo", "one")
    ran = durable_bus("results", "b", "--output", "/dev/full", cwd=tmp_path)
    assert (ran.code, ran.error) == (5, "cannot write /dev/full: No space left on device")


@pytest.mark.slow
def test_output_works_for_what_is_no_file(tmp_path: Path) -> None:
    _ran(tmp_path, "plain", "echo", "one")
    ran = durable_bus("results", "b", "--output", "/dev/stdout", cwd=tmp_path)
    assert ran.out == '<results><item index="0" success="true">one</item></results>\n'


# wait


def _at_the_gate(tmp_path: Path, facts: Facts, run_log: RunLog) -> Command:
    """A run of 12 items, 10 of them recorded, whose workers wait for the file `door`."""
    items = write_items(tmp_path, *[tmp_path] * 10, *[tmp_path / "door"] * 2)
    arguments = ("run", "apps.plain:bus", "gate", "--items", items, "--buffer-id", "b", "--workers", 2)
    command = Command(*arguments, cwd=tmp_path)
    facts.until_recorded("b", 10)
    run_log.until_started(10, 11)
    return command


@pytest.mark.slow
def test_wait_follows_the_journal_whoever_serves_it_and_when(
    tmp_path: Path, facts: Facts, run_log: RunLog
) -> None:
    command = _at_the_gate(tmp_path, facts, run_log)
    command.kill()
    waiting = Command("wait", "b", "--json", cwd=tmp_path)
    (tmp_path / "door").touch()
    _again = ("run", "apps.plain:bus", "gate", "--items", "items.txt", "--buffer-id", "b", "--quiet")
    assert durable_bus(*_again, cwd=tmp_path).code == 0
    ran = waiting.ended()
    assert ran.code == 0
    told = json.loads(ran.out)
    assert (told["state"], told["total"], told["successful"]) == ("complete", 12, 12)
    assert "b: 12 items, 0 failed" in ran.err


def test_wait_says_by_its_exit_code_that_items_failed(tmp_path: Path) -> None:
    _ran(tmp_path, "reading", "read", tmp_path / "missing")
    ran = durable_bus("wait", "b", cwd=tmp_path)
    assert (ran.code, ran.out, ran.error) == (1, "", "b: 1 items, 1 failed")


@pytest.mark.slow
def test_wait_gives_up_after_its_timeout(tmp_path: Path, facts: Facts, run_log: RunLog) -> None:
    _at_the_gate(tmp_path, facts, run_log).kill()
    ran = durable_bus("wait", "b", "--timeout", 0.1, cwd=tmp_path)
    assert (ran.code, ran.out) == (6, "")
    assert ran.error == "b has not ended within 0.1 s: 10 of 12 items are recorded"


# status


def _status(tmp_path: Path, *arguments: str) -> dict[str, object]:
    ran = durable_bus("status", *arguments, "--json", cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    told = json.loads(ran.out)
    assert isinstance(told, dict)
    return told


@pytest.mark.slow
def test_status_tells_a_living_a_hung_and_a_dead_supervisor_apart(
    tmp_path: Path, facts: Facts, run_log: RunLog
) -> None:
    command = _at_the_gate(tmp_path, facts, run_log)
    supervisor = command.supervisor()

    told = _status(tmp_path)
    assert told["supervisor"] == {"state": "alive", "pid": supervisor, "reason": None}
    assert told["open"][0]["waits_for"] is None  # type: ignore[index]
    text = durable_bus("status", cwd=tmp_path).out
    assert f"alive, process {supervisor}, run 1 of apps.plain:bus since" in text
    assert "  b to gate: open, 10 of 12" in text

    os.kill(supervisor, signal.SIGSTOP)
    try:
        until(lambda: _status(tmp_path)["supervisor"]["state"] == "hung", "it counts as hung")  # type: ignore[index]
        text = durable_bus("status", cwd=tmp_path).out
        assert "hung: the process is stopped" in text
        assert "waits: the supervisor does not answer" in text
    finally:
        os.kill(supervisor, signal.SIGCONT)

    kill(supervisor)
    command.ended()
    told = _status(tmp_path)
    assert told["supervisor"] == {"state": "dead", "pid": None, "reason": None}
    assert told["in_flight"]["items"] == 2  # type: ignore[index]
    text = durable_bus("status", cwd=tmp_path).out
    assert "not running; run 1 crashed after 20" in text
    assert "interrupted 2 items in" in text
    assert "waits: nobody serves the journal" in text


@pytest.mark.slow
def test_status_after_a_clean_end(tmp_path: Path) -> None:
    _ran(tmp_path, "plain", "echo", *range(10))
    text = durable_bus("status", cwd=tmp_path).out
    assert "not running; run 1 ended " in text
    assert "open        none" in text
    assert "  b to echo: complete, 10 of 10\n" in text


@pytest.mark.slow
def test_status_names_a_buffer_whose_listener_is_gone(tmp_path: Path, facts: Facts, run_log: RunLog) -> None:
    command = _at_the_gate(tmp_path, facts, run_log)
    kill(command.supervisor())
    command.ended()
    # Another app on the same journal, which does not know `gate` and is held up itself.
    os.mkfifo(tmp_path / "fifo")
    items = write_items(tmp_path, tmp_path / "fifo", name="other.txt")
    other = Command("run", "apps.reading:bus", "read", "--items", items, "--buffer-id", "o", cwd=tmp_path)
    facts.until("SELECT count(*) FROM in_flight WHERE buffer_id = 'o'")
    told = _status(tmp_path, "b")
    assert told["waits_for"] == "no listener of the app is called gate"
    (tmp_path / "fifo").write_text("go")
    ran = other.ended()
    assert ran.code == 0
    assert "also open in journal.db, and going on: b" in ran.err


@pytest.mark.slow
def test_status_of_a_buffer_says_what_failed_its_items(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("hello")
    (tmp_path / "folder").mkdir()
    items = [tmp_path / name for name in ("here", "folder", "missing", "missing too")]
    _ran(tmp_path, "reading", "read", *items)
    told = _status(tmp_path, "b")
    assert (told["state"], told["successful"], told["failed"]) == ("complete", 1, 3)
    assert told["failed_because"] == [
        {"kind": "exception", "reason": "FileNotFoundError", "items": 2},
        {"kind": "exception", "reason": "IsADirectoryError", "items": 1},
    ]
    text = durable_bus("status", "b", cwd=tmp_path).out
    assert "2 failed: exception: FileNotFoundError" in text


@pytest.mark.slow
def test_status_of_a_buffer_says_also_what_handlers_answered_as_a_failure(tmp_path: Path) -> None:
    _answered(tmp_path)
    told = _status(tmp_path, "b")
    assert told["failed_because"] == [
        {"kind": "Huh", "reason": "huh what? why", "items": 2},
        {"kind": "Huh", "reason": "huh! what? why", "items": 1},
        {"kind": "busy", "reason": "later & later", "items": 1},
        {"kind": "exception", "reason": "ValueError", "items": 1},
        {"kind": "routing", "reason": "answer sent to the unknown name 'nobody'", "items": 1},
    ]


@pytest.mark.slow
def test_reading_commands_leave_a_running_supervisor_alone(
    tmp_path: Path, facts: Facts, run_log: RunLog
) -> None:
    command = _at_the_gate(tmp_path, facts, run_log)
    workers = workers_of(command.supervisor())
    for arguments in (("status",), ("status", "b"), ("results", "b"), ("wait", "b", "--timeout", 0)):
        durable_bus(*arguments, cwd=tmp_path)
    assert workers_of(command.supervisor()) == workers
    (tmp_path / "door").touch()
    assert command.ended().code == 0
