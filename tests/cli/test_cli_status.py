"""`status`: why nothing is done about what is open, and what the workers do, after an app has changed."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from command_line import durable_bus, write_items
from services import Service
from support import Facts, environment, until

from durable_bus import Text

ASKING = """
from durable_bus import BufferStart, Bus, HandlerResponse, Text

bus = Bus("asking")


@bus.listener("outer")
def outer(text: str) -> HandlerResponse:
    return HandlerResponse(BufferStart("work", ["nested"], buffer_id=text), to="system.buffer")


@bus.listener("work")
def work(text: str) -> HandlerResponse:
    return HandlerResponse(Text(text), to="helper")


@bus.listener("answer")
def answer(text: str) -> str:
    return text
"""
HELPER = """

@bus.listener("helper")
def helper(text: str) -> str:
    import time

    while True:
        time.sleep(60)
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The app's file. No bytecode: two versions of one size within a second would share it."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    path = tmp_path / "asking.py"
    path.write_text(ASKING + HELPER)
    return path


def told(journal: Path, *arguments: str) -> dict[str, Any]:
    ran = durable_bus("status", *arguments, "--json", cwd=journal.parent)
    assert (ran.code, ran.err) == (0, "")
    facts = json.loads(ran.out)
    assert isinstance(facts, dict)
    return facts


def text_of(journal: Path, *arguments: str) -> str:
    ran = durable_bus("status", *arguments, cwd=journal.parent)
    assert (ran.code, ran.err) == (0, "")
    return ran.out


@pytest.mark.slow
def test_who_waits_for_a_vanished_listener_is_named(journal: Path, facts: Facts, app: Path) -> None:
    """An item that was passed on, one of a nested buffer, and a client's message wait for `helper`."""
    with Service(journal, "asking:bus", cwd=app.parent, workers=4) as service:
        with service.client("cli") as client:
            client.start("work", ["x"], buffer_id="w1")
            client.start("outer", ["within"], buffer_id="w2")
            client.send("helper", Text("hello"))
            facts.until("SELECT count(*) = 3 FROM messages WHERE to_id = 'helper'")
        service.kill()
    app.write_text(ASKING)
    with Service(journal, "asking:bus", cwd=app.parent) as service, service.client("cli") as client:
        client.start("answer", ["fine"], buffer_id="fine").wait(60)
        service.until_ready()
        why = "no listener of the app is called helper, for which a message on the thread of its items waits"
        told_now = told(journal)
        assert told_now["absent_listeners"] == [{"name": "helper", "messages": 3}]
        waits = {row["buffer_id"]: row["waits_for"] for row in told_now["open"]}
        assert waits == {"w1": why, "w2": why, "within": why}
        assert told(journal, "w1")["waits_for"] == told(journal, "w2")["waits_for"] == why
        text = text_of(journal)
        assert "waiting     3 messages for helper: no listener of the app is called that\n" in text
        assert f"  w1 to work: open, 0 of 1, waits: {why}\n" in text
        assert f"waits_for     {why}\n" in text_of(journal, "w1")


@pytest.mark.slow
def test_nobody_is_named_while_every_message_has_a_listener_or_a_mailbox(
    journal: Path, facts: Facts, app: Path
) -> None:
    with Service(journal, "asking:bus", cwd=app.parent, workers=4) as service:
        with service.client("you"), service.client("cli") as client:
            client.start("work", ["x", "y", "z"], buffer_id="w1")
            client.send("you", Text("hello"))
            facts.until("SELECT count(*) = 3 FROM messages WHERE to_id = 'helper'")
        assert told(journal)["absent_listeners"] == []
        assert told(journal, "w1")["waits_for"] is None
        assert "waiting" not in text_of(journal)
        service.kill()


# An app that cannot be imported


@pytest.mark.slow
def test_old_code_that_goes_on_after_a_failed_reload_is_told_beside_the_error(
    journal: Path, facts: Facts, app: Path
) -> None:
    with Service(journal, "asking:bus", cwd=app.parent, workers=4) as service, service.client() as client:
        service.until_ready()
        client.start("work", ["x"], buffer_id="w1")
        facts.until("SELECT state = 'delivered' FROM messages WHERE to_id = 'helper'")
        app.write_text("import nothing_of_that_name\n")
        service.send(signal.SIGHUP)
        service.until_logged("cannot import the app")
        facts.until("SELECT worker_error IS NOT NULL FROM run")
        assert told(journal, "w1")["waits_for"] is None
        assert told(journal)["open"][0]["waits_for"] is None
        text = text_of(journal)
        assert "app         cannot be imported, the code from before goes on: importing asking failed" in text
        assert "listeners   answer, helper, outer, work\n" in text
        assert text.count(" ready, old code, ") == 4
        service.kill()


@pytest.mark.slow
def test_an_app_that_could_never_be_imported_is_what_a_buffer_waits_for(
    journal: Path, facts: Facts, app: Path
) -> None:
    with Service(journal, "asking:bus", cwd=app.parent, workers=4) as service, service.client() as client:
        client.start("work", ["x"], buffer_id="w1")
        facts.until("SELECT state = 'delivered' FROM messages WHERE to_id = 'helper'")
        service.kill()
    app.write_text("import nothing_of_that_name\n")
    with Service(journal, "asking:bus", cwd=app.parent) as service:
        facts.until("SELECT worker_error IS NOT NULL FROM run ORDER BY run_id DESC LIMIT 1")
        why = "workers cannot import the app: importing asking failed"
        assert told(journal, "w1")["waits_for"].startswith(why)
        assert told(journal)["open"][0]["waits_for"].startswith(why)
        assert "app         cannot be imported: importing asking failed" in text_of(journal)
        service.kill()
        assert "the code from before" not in text_of(journal)


# What workers do


@pytest.mark.slow
def test_what_a_worker_runs_is_named_also_without_a_buffer(journal: Path, facts: Facts, app: Path) -> None:
    """A message, and an item of a buffer that was cancelled meanwhile."""
    with (
        Service(journal, "asking:bus", cwd=app.parent, workers=2) as service,
        service.client("cli") as client,
    ):
        message_id = client.send("helper", Text("hello"))
        facts.until("SELECT state = 'delivered' FROM messages WHERE to_id = 'helper'")
        client.start("helper", ["x"], buffer_id="b")
        facts.until("SELECT count(*) = 1 FROM in_flight")
        until(lambda: len(running(journal)) == 2, "both workers run something")
        client.cancel("b")
        told_of = sorted(running(journal), key=lambda worker: worker["buffer_id"] or "")
        columns = ("listener", "buffer_id", "item_index", "message_id")
        assert [tuple(worker[name] for name in columns) for worker in told_of] == [
            ("helper", None, None, message_id),
            ("helper", "b", 0, None),
        ]
        text = text_of(journal)
        assert f" s at helper message {message_id}, 1 in hand" in text
        assert " s at helper b[0], 1 in hand" in text
        top = durable_bus("top", cwd=journal.parent, COLUMNS="200").out
        assert re.search(rf"ready +helper message {message_id[:13]}…{message_id[-10:]} ", top)
        assert re.search(r"ready +helper b\[0\] ", top)
        service.kill()


def running(journal: Path) -> list[dict[str, Any]]:
    return [worker for worker in told(journal)["supervisor"]["workers"] if worker["seconds"] is not None]


# For terminals


def test_failures_are_shown_in_a_terminal_that_does_not_know_how_wide_it_is(tmp_path: Path) -> None:
    items = write_items(tmp_path, tmp_path / "missing")
    arguments = ("run", "apps.reading:bus", "read", "--items", items, "--buffer-id", "b", "--quiet")
    assert durable_bus(*arguments, cwd=tmp_path).code == 1
    master, slave = pty.openpty()
    with open(master, "rb", buffering=0) as screen:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        command = [sys.executable, "-m", "durable_bus", "status"]
        variables = {name: value for name, value in environment().items() if name != "COLUMNS"}
        process = subprocess.Popen(command, cwd=tmp_path, env=variables, stdin=slave, stdout=slave)
        os.close(slave)
        said = b""
        with suppress(OSError):  # EIO: nobody has the terminal any more
            while block := screen.read(4096):
                said += block
        assert process.wait(60) == 0
    (line,) = re.findall(r"^  b\[0\] .*$", said.decode().replace("\r", ""), re.MULTILINE)
    assert line.startswith("  b[0] attempt 1: exception: FileNotFoundError")
    assert len(line) == 80
