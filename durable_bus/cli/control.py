"""What steers a daemon: cancel, pause, resume, retry, prune; and messages: send, receive."""

import sys
import time
from pathlib import Path
from typing import Any

import click

from durable_bus.cli.daemon import client_of_daemon
from durable_bus.cli.options import (
    AGE,
    SECONDS,
    budget_option,
    buffer_argument,
    journal_option,
    json_option,
    to_argument,
    wait_daemon_option,
)
from durable_bus.cli.printing import answer, escaped, print_json
from durable_bus.client.client import Client
from durable_bus.client.terms import amounts_of
from durable_bus.errors import LimitExceeded, UsageError
from durable_bus.payloads.xml_reading import PAYLOAD_BYTES_MAX


def _steer(action: str, journal: Path, buffer_id: str, as_json: bool, **more: Any) -> int:
    with Client(journal) as client:
        state: str = getattr(client, action)(buffer_id, **more)
    paused = action == "pause" and state == "open"
    facts = {"buffer_id": buffer_id, "state": state, "paused": paused}
    answer(as_json, facts, "paused" if paused else state)
    return 0


@click.command("cancel")
@buffer_argument
@journal_option()
@json_option
def cancel_command(buffer_id: str, journal: Path, as_json: bool) -> int:
    """End BUFFER as it is, and the buffers that handlers of its items have started; print its state.

    What has no result stays missing, later answers are ignored, and BufferComplete is sent. `retry` starts
    what is missing again. A buffer whose items are still arriving is given up: that prints `gone`, and its id
    is free again, so that for a second cancel there is no such buffer (exit code 3).

    \b
    durable-bus cancel monday
    """
    return _steer("cancel", journal, buffer_id, as_json)


@click.command("pause")
@buffer_argument
@journal_option()
@json_option
def pause_command(buffer_id: str, journal: Path, as_json: bool) -> int:
    """Hand out nothing more of BUFFER until `resume`, also after a restart; print its state.

    What runs is finished and recorded. A buffer whose items are still arriving is refused: nothing of it is
    handed out as yet.

    \b
    durable-bus pause monday
    """
    return _steer("pause", journal, buffer_id, as_json)


@click.command("resume")
@buffer_argument
@budget_option("How much more it may spend, such as usd=5; may be repeated. Default: as much again.")
@journal_option()
@json_option
def resume_command(buffer_id: str, budget: dict[str, float], journal: Path, as_json: bool) -> int:
    """Go on with BUFFER, which was paused, or has spent its budget; print its state.

    \b
    durable-bus resume monday
    durable-bus resume monday --budget usd=2.50
    """
    return _steer("resume", journal, buffer_id, as_json, budget=amounts_of(budget))


@click.command("retry")
@buffer_argument
@journal_option()
@json_option
def retry_command(buffer_id: str, journal: Path, as_json: bool) -> int:
    """Start the failed and missing items of BUFFER, which has ended, again; print the id of the new buffer.

    That is BUFFER.retry1, and for what fails of it BUFFER.retry2; where that would be over 100 characters,
    BUFFER is cut and ends in a digest. Asked twice, it is the same buffer.

    \b
    durable-bus retry monday
    """
    with Client(journal) as client:
        buffer = client.retry(buffer_id)
    answer(as_json, {"buffer_id": buffer.buffer_id, "existed": buffer.existed}, buffer.buffer_id)
    return 0


@click.command("prune")
@click.option(
    "--older-than", "age_ms", type=AGE, required=True, metavar="AGE", help="Such as 30d, 12h, 90m or 45s."
)
@journal_option()
@json_option
def prune_command(age_ms: int, journal: Path, as_json: bool) -> int:
    """Drop items, results and messages of buffers that ended longer ago; print how many buffers.

    Their rows stay, as `pruned`, and their ids stay used. What was spent stays, too; memos go, so that equal
    items run again. A buffer with something unsettled is left alone.
    Conversations begun by `send` go as well, when nothing of them is open and nothing was said since.

    \b
    durable-bus prune --older-than 30d
    """
    with Client(journal) as client:
        count = client.prune(time.time_ns() // 1_000_000 - age_ms)
    answer(as_json, {"pruned": count}, f"{count:,} buffers pruned")
    return 0


@click.command("send")
@to_argument
@click.argument("payload", metavar="PAYLOAD")
@click.option("--name", default="cli", show_default=True, help="Who sends it, and gets the answer.")
@wait_daemon_option
@journal_option()
@json_option
def send_command(to: str, payload: str, name: str, wait_daemon_s: float, journal: Path, as_json: bool) -> int:
    """Send PAYLOAD (text, XML, or - for stdin, in UTF-8) to TO, on a new thread; print the message's id.

    It is on disk then. What begins with < is XML and must be one element. An answer comes to the mailbox of
    --name: see `receive`.

    \b
    durable-bus send planner 'What is new?' && durable-bus receive cli
    """
    text = _stdin_text() if payload == "-" else payload
    with client_of_daemon(journal, wait_daemon_s, name) as client:
        message_id = client.send(to, text)
    answer(as_json, {"message_id": message_id}, message_id)
    return 0


def _stdin_text() -> str:
    """All of stdin, which is UTF-8 whatever the locale says. Raises UsageError, LimitExceeded."""
    if sys.stdin is None:
        raise UsageError("cannot read stdin: it is closed")
    data = sys.stdin.buffer.read(PAYLOAD_BYTES_MAX + 1)
    if len(data) > PAYLOAD_BYTES_MAX:
        raise LimitExceeded(f"stdin is over the limit of {PAYLOAD_BYTES_MAX} bytes a payload")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"stdin is not UTF-8: byte {error.start + 1}") from None


@click.command("receive")
@click.argument("name", metavar="NAME")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="Give up with exit code 6.")
@wait_daemon_option
@journal_option()
@json_option
def receive_command(
    name: str, timeout: float | None, wait_daemon_s: float, journal: Path, as_json: bool
) -> int:
    """Wait for the next message to NAME, print it, then acknowledge it.

    A message is acknowledged only when its printing was flushed: killed before that, it comes again. NAME has
    a mailbox from the first time on.

    \b
    durable-bus receive cli --timeout 60
    """
    with client_of_daemon(journal, wait_daemon_s, name) as client:
        message = client.receive(timeout)
        if as_json:
            print_json(message._asdict())
        else:
            # For a pipe the payload as it is; a terminal must not be commanded by it.
            click.echo(escaped(message.payload) if sys.stdout.isatty() else message.payload)
        sys.stdout.flush()
        client.acknowledge(message)
    return 0
