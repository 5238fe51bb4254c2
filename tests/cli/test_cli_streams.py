"""Items of a pipe run while the next ones are still to come: `run`, `map`, `submit --stream`."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Command, durable_bus, write_items
from support import PATIENCE_S, Facts, RunLog, environment, kill, until

from durable_bus.client.buffer_ids import KEY_ITEMS

RUN = ("run", "apps.plain:bus", "echo", "--items", "-", "--workers", 1, "--format", "jsonl")


class Fed:
    """A command whose stdin is a pipe that stays open until it is told otherwise."""

    def __init__(self, *arguments: object, cwd: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "durable_bus", *map(str, arguments)],
            cwd=cwd,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )

    def give(self, *items: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{item}\n" for item in items).encode())
        self.process.stdin.flush()

    def ended(self) -> tuple[int, list[str], str]:
        """Its exit code, lines and messages, once no more comes."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out.decode().splitlines(), err.decode()

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.process.wait()


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[list[Fed]]:
    """Commands to be ended with the test."""
    commands: list[Fed] = []
    yield commands
    for command in commands:
        command.close()


def payloads(lines: list[str]) -> list[object]:
    return [json.loads(line)["payload"] for line in lines]


def test_run_does_not_wait_for_the_end_of_its_input(tmp_path: Path, facts: Facts, fed: list[Fed]) -> None:
    fed.append(command := Fed(*RUN, "--buffer-id", "b", cwd=tmp_path))
    command.give("one", "two")
    facts.until_recorded("b", 2)
    assert facts.rows("SELECT state, total, sealed_at IS NULL FROM buffers") == [("open", 2, 1)]
    told = durable_bus("status", cwd=tmp_path).out
    assert "b to echo: open, not sealed, 2 of 2, waits: no more of its items have come" in told
    assert "more items may come" in durable_bus("status", "b", cwd=tmp_path).out
    assert "open, not sealed" in durable_bus("top", cwd=tmp_path).out
    command.give("three")
    facts.until_recorded("b", 3)
    code, lines, err = command.ended()
    assert (code, payloads(lines)) == (0, ["one", "two", "three"])
    assert "b: 3 items, 0 failed" in err
    assert facts.rows("SELECT state, total, sealed_at IS NULL FROM buffers") == [("complete", 3, 0)]


@pytest.mark.slow
def test_a_pipe_is_known_again_by_its_first_items(
    tmp_path: Path, facts: Facts, run_log: RunLog, fed: list[Fed]
) -> None:
    """Killed in the middle, the same command with the same input goes on."""
    items = [*range(KEY_ITEMS + 20)]
    fed.append(command := Fed(*RUN, cwd=tmp_path))
    command.give(*items[:-10])
    facts.until("SELECT count(*) = ? FROM results", len(items) - 10)
    command.close()
    ran = durable_bus(*RUN, cwd=tmp_path, stdin="".join(f"{item}\n" for item in items).encode())
    assert (ran.code, payloads(ran.out.splitlines())) == (0, [str(item) for item in items])
    assert "going on" in ran.err
    assert facts.rows("SELECT state, total FROM buffers") == [("complete", len(items))]
    assert len(run_log.runs()) == len(items), "what was recorded is not run again"
    again = durable_bus(*RUN, cwd=tmp_path, stdin="".join(f"{item}\n" for item in items).encode())
    assert (again.code, again.out) == (0, ran.out)
    assert "recorded before; nothing is run" in again.err


@pytest.mark.slow
def test_another_item_is_named_and_changes_nothing(tmp_path: Path, facts: Facts, fed: list[Fed]) -> None:
    fed.append(command := Fed(*RUN, "--buffer-id", "b", cwd=tmp_path))
    command.give("one", "two", "three")
    facts.until_recorded("b", 3)
    command.close()
    unsealed = durable_bus(*RUN, "--buffer-id", "b", cwd=tmp_path, stdin=b"one\nother\nthree\n")
    assert unsealed.code == 2
    assert "item 1 was the text 'two', and is the text 'other'" in unsealed.err
    fewer = durable_bus(*RUN, "--buffer-id", "b", cwd=tmp_path, stdin=b"one\n")
    assert fewer.code == 2
    assert "3 of them are recorded, and 1 are given" in fewer.err
    assert facts.rows("SELECT state, total, sealed_at IS NULL FROM buffers") == [("open", 3, 1)]
    assert durable_bus(*RUN, "--buffer-id", "b", cwd=tmp_path, stdin=b"one\ntwo\nthree\n").code == 0
    more = durable_bus(*RUN, "--buffer-id", "b", cwd=tmp_path, stdin=b"one\ntwo\nthree\nfour\n")
    assert more.code == 2
    assert "there are 3 of them, and more are given" in more.err


@pytest.mark.slow
def test_ctrl_c_while_it_waits_for_input_stops_cleanly(tmp_path: Path, facts: Facts, fed: list[Fed]) -> None:
    fed.append(command := Fed(*RUN, "--buffer-id", "b", cwd=tmp_path))
    command.give("one")
    facts.until_recorded("b", 1)
    os.killpg(command.process.pid, signal.SIGINT)
    assert command.process.wait(PATIENCE_S) == 4
    assert command.process.stderr is not None
    assert (
        "interrupted with 1 items recorded; run the same command again"
        in command.process.stderr.read().decode()
    )
    assert facts.value("SELECT ended FROM runs") == "clean"


@pytest.mark.slow
def test_max_failures_ends_a_stream_that_still_comes(tmp_path: Path, facts: Facts, fed: list[Fed]) -> None:
    arguments = ("run", "apps.reading:bus", "read", "--items", "-", "--workers", 1, "--max-failures", 1)
    fed.append(command := Fed(*arguments, "--buffer-id", "b", cwd=tmp_path))
    command.give(tmp_path / "no1", tmp_path / "no2")
    facts.until("SELECT failed = 2 FROM buffers")
    command.give(tmp_path / "no3")
    code, _, err = command.ended()
    assert code == 1
    assert "--max-failures is 1" in err
    assert facts.value("SELECT state FROM buffers") == "open"


@pytest.mark.slow
def test_a_file_is_refused_as_a_whole_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"a": 1}\nnot json\n')
    ran = durable_bus(
        "run", "apps.plain:bus", "echo", "--items", "items.jsonl", "--buffer-id", "b", cwd=tmp_path
    )
    assert (ran.code, "line 2 of items.jsonl" in ran.error) == (2, True)
    assert not (tmp_path / "journal.db").exists()


@pytest.mark.slow
def test_a_killed_run_of_a_file_goes_on(tmp_path: Path, facts: Facts) -> None:
    """Whether it dies before its file is read to the end or after."""
    items = write_items(tmp_path, *[0.002] * 600)
    arguments = ("run", "apps.plain:bus", "sleep", "--items", items, "--workers", 2, "--buffer-id", "b")
    first = Command(*arguments, cwd=tmp_path)
    facts.until_recorded("b", 50)
    kill(first.supervisor())
    assert first.ended().code == 4
    assert durable_bus(*arguments, cwd=tmp_path).code == 0
    assert facts.rows("SELECT state, total, successful FROM buffers") == [("complete", 600, 600)]
    assert durable_bus("check", cwd=tmp_path).code == 0


# map


@pytest.mark.slow
def test_map_calls_a_function_with_each_line(tmp_path: Path, facts: Facts) -> None:
    items = write_items(tmp_path, "/a/b", "<c/>")
    arguments = ("map", "posixpath:basename", "--items", items, "--format", "jsonl", "--workers", 1)
    ran = durable_bus(*arguments, cwd=tmp_path)
    assert (ran.code, payloads(ran.out.splitlines())) == (0, ["b", ">"])
    again = durable_bus(*arguments, cwd=tmp_path)
    assert (again.code, again.out) == (0, ran.out)
    assert facts.value("SELECT count(*) FROM runs") == 1


@pytest.mark.slow
def test_map_gives_values_of_json_and_retries_what_failed(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text("4\n[1]\n9\n")
    arguments = ("map", "math:sqrt", "--items", "items.jsonl", "--format", "jsonl", "--workers", 1)
    ran = durable_bus(*arguments, cwd=tmp_path)
    results = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 1
    assert [results[0]["payload"], results[2]["payload"]] == [2.0, 3.0]
    assert "TypeError" in results[1]["error"]
    again = durable_bus(*arguments, "--retry-failed", cwd=tmp_path)
    assert (again.code, "1 items again" in again.err) == (1, True)


@pytest.mark.parametrize("function", ["math", "math:", "math:sq rt", ":sqrt"])
def test_map_refuses_what_is_no_function_in_one_line(tmp_path: Path, function: str) -> None:
    items = write_items(tmp_path, 1)
    ran = durable_bus("map", function, "--items", items, cwd=tmp_path)
    assert (ran.code, "is not module:function" in ran.error) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize(("function", "why"), [("math:nope", "no attribute nope"), ("math:pi", "a float")])
def test_map_says_what_workers_cannot_find(tmp_path: Path, function: str, why: str) -> None:
    items = write_items(tmp_path, 1)
    ran = durable_bus("map", function, "--items", items, "--workers", 1, cwd=tmp_path)
    assert ran.code == 2
    assert why in ran.err


# submit --stream


@pytest.mark.slow
def test_submit_hands_a_stream_on_as_it_comes(tmp_path: Path, facts: Facts, fed: list[Fed]) -> None:
    daemon = Command("serve", "apps.plain:bus", "--workers", 1, cwd=tmp_path)
    arguments = ("submit", "echo", "--items", "-", "--buffer-id", "b", "--stream")
    fed.append(command := Fed(*arguments, "--wait", cwd=tmp_path))
    command.give("one", "two")
    facts.until_recorded("b", 2)
    second = durable_bus(*arguments, cwd=tmp_path, stdin=b"one\n")
    assert (second.code, second.error) == (2, "buffer b: another client is sending its items just now")
    command.close()
    until(lambda: durable_bus(*arguments, cwd=tmp_path, stdin=b"one\ntwo\nthree\n").code == 0, "it goes on")
    facts.until("SELECT state = 'complete' FROM buffers")
    assert facts.rows("SELECT payload FROM results ORDER BY item_index") == [("one",), ("two",), ("three",)]
    daemon.process.terminate()
    assert daemon.ended().code == 0


def test_submit_stream_needs_an_id(tmp_path: Path) -> None:
    ran = durable_bus("submit", "echo", "--items", "-", "--stream", cwd=tmp_path, stdin=b"one\n")
    assert (ran.code, "--stream needs --buffer-id" in ran.error) == (2, True)


@pytest.mark.parametrize(
    ("command", "function"), [("run", ["apps.plain:bus", "echo"]), ("map", ["posixpath:basename"])]
)
def test_an_item_of_a_pipe_that_cannot_be_journaled_is_named(
    tmp_path: Path, command: str, function: list[str]
) -> None:
    arguments = (command, *function, "--items", "-", "--workers", 1, "--buffer-id", "b", "--quiet")
    ran = durable_bus(*arguments, cwd=tmp_path, stdin=b"one\na\0b\nthree\n")
    assert (ran.code, ran.out) == (2, "")
    assert ran.error == "item 1: it cannot be journaled: a text with a NUL character, at position 1"
