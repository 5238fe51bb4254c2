"""The commands that steer a daemon, and `top`, as a person types them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

APP = """
import os, time
from pathlib import Path
from durable_bus import Bus

bus = Bus("steered")

@bus.listener("wait-for")
def wait_for(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.01)
    return "there"

@bus.listener("fail")
def fail(text: str) -> str:
    raise ValueError(text)

@bus.listener("echo")
def echo(text: str) -> str:
    return text.upper()
"""

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    (tmp_path / "steered.py").write_text(APP)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*arguments: str, code: int = 0, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, "-m", "durable_bus", *arguments],
            cwd=tmp_path,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def daemon(tmp_path: Path, command: Command) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "durable_bus", "serve", "steered:bus", "--workers", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "journal.db.sock").exists():
        assert process.poll() is None
        time.sleep(0.01)
    yield process
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_buffer_is_paused_resumed_and_cancelled_and_each_may_be_asked_twice(
    command: Command, daemon: "subprocess.Popen[bytes]"
) -> None:
    command("submit", "wait-for", "--items", "-", "--buffer-id", "b", stdin="never\n" * 20)
    for _ in range(2):
        assert command("pause", "b").stdout == "open\n"
    assert "paused" in command("status").stdout
    for _ in range(2):
        assert json.loads(command("resume", "b", "--json").stdout) == {"buffer_id": "b", "state": "open"}
    for _ in range(2):
        assert command("cancel", "b").stdout == "cancelled\n"
    command("wait", "b", code=1)


def test_what_failed_is_retried_under_the_next_name(
    command: Command, daemon: "subprocess.Popen[bytes]"
) -> None:
    command("submit", "fail", "--items", "-", "--buffer-id", "b", "--wait", stdin="1\n2\n", code=1)
    assert command("retry", "b").stdout == "b.retry1\n"
    command("wait", "b.retry1", code=1)
    assert command("retry", "b").stdout == "b.retry1\n"
    assert command("retry", "nothing", code=3).stderr.count("\n") == 1


def test_a_message_is_sent_answered_and_received_once(
    command: Command, daemon: "subprocess.Popen[bytes]"
) -> None:
    command("send", "echo", "hello")
    assert command("receive", "cli", "--timeout", "30").stdout == "HELLO\n"
    assert command("receive", "cli", "--timeout", "0.1", code=6).stdout == ""
    assert "unknown name" in command("send", "nobody", "hello", code=2).stderr


def test_what_has_ended_is_pruned_and_stays_known(
    command: Command, daemon: "subprocess.Popen[bytes]"
) -> None:
    command("submit", "echo", "--items", "-", "--buffer-id", "b", "--wait", stdin="1\n")
    assert json.loads(command("prune", "--older-than", "0s", "--json").stdout) == {"pruned": 1}
    assert json.loads(command("status", "b", "--json").stdout)["state"] == "pruned"
    assert "30d" in command("prune", "--older-than", "soon", code=2).stderr


def test_without_a_daemon_they_say_how_to_start_one(command: Command) -> None:
    for arguments in (
        ["cancel", "b"],
        ["send", "echo", "x"],
        ["receive", "cli"],
        ["prune", "--older-than", "1d"],
    ):
        done = command(*arguments, code=5)
        assert "durable-bus serve" in done.stderr
        assert done.stderr.count("\n") == 1


def test_top_prints_once_where_stdout_is_no_terminal(
    command: Command, daemon: "subprocess.Popen[bytes]"
) -> None:
    command("submit", "echo", "--items", "-", "--buffer-id", "some-buffer", "--wait", stdin="1\n")
    shown = command("top").stdout
    assert "some-buffer" in shown
    assert "complete" in shown
    assert "supervisor alive" in shown
