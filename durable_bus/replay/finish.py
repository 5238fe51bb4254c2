"""Completing what a crash left behind, through a supervisor as everybody does. The one part that writes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durable_bus.app.finding import parse_spec
from durable_bus.client.client import Client
from durable_bus.client.embedded import open_client
from durable_bus.journal.access import path_to_write
from durable_bus.journal.admin.history import History
from durable_bus.journal.completeness import refuse_incomplete
from durable_bus.journal.lock import holder_pid, noted_commit
from durable_bus.journal.reader import JournalReader

__all__ = ["Finished", "finish"]

_LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Finished:
    buffers: list[dict[str, Any]]
    """Rows of the view `buffers`, those that were open at the beginning."""
    left: list[str]
    """Why anything is still open, a line each."""


def finish(journal: Path, app: str, workers: int | None, tell: Callable[[int], None]) -> Finished:
    """Complete whatever is open or in flight, with a supervisor of our own, and stop.

    What cannot be completed now (paused, without a listener, waiting for a client's answer) is left, and
    named. `tell` is told from time to time how many items are pending. Raises a JournalError, also when what
    was open may be missing.
    """
    spec = parse_spec(app)
    path_to_write(journal)  # its supervisor would say the same, but readers leave a -wal and a -shm before
    if holder_pid(journal) is None:
        refuse_incomplete(journal, noted_commit(journal))
    left: list[str] = []
    with History(journal) as history, JournalReader(journal) as reader:
        before, messages = history.open_work()
        if before or messages:
            with open_client(spec, app, journal, workers) as client:
                _until_nothing_moves(client, history, tell)
                listeners = client.listeners
            work, messages = history.open_work()
            left = [_why_left(buffer, listeners) for buffer in work]
            left += [
                f"{count} messages to {name}, whom the app does not have"
                for name, count in messages.items()
                if name not in listeners
            ]
        return Finished([reader.buffer(buffer["buffer_id"]) for buffer in before], left)


def _until_nothing_moves(client: Client, history: History, tell: Callable[[int], None]) -> None:
    """Wait until nothing is left that this supervisor can bring on."""
    look_at_s = 0.0

    def nothing_moves() -> bool:
        nonlocal look_at_s
        if time.monotonic() < look_at_s:
            return False
        look_at_s = time.monotonic() + _LOOK_EVERY_S
        work, messages = history.open_work()
        tell(sum(buffer["pending"] for buffer in work))
        return not any(_moves(buffer, client.listeners) for buffer in work) and not any(
            name in client.listeners for name in messages
        )

    client.wait_until(nothing_moves, None, None)


def _moves(buffer: dict[str, Any], listeners: dict[str, Any]) -> bool:
    return not buffer["paused"] and buffer["target"] in listeners and buffer["pending"] > buffer["forwarded"]


def _why_left(buffer: dict[str, Any], listeners: dict[str, Any]) -> str:
    name, pending = buffer["buffer_id"], f"{buffer['pending']:,} items"
    if buffer["paused"]:
        return f"{name}: {pending}, it is paused"
    if buffer["target"] not in listeners:
        return f"{name}: {pending}, the app has no listener {buffer['target']}"
    if buffer["unsealed"] and not buffer["pending"]:
        return f"{name}: all that has come is done, but nobody has sealed this stream"
    return f"{name}: {pending}, they wait for an answer from elsewhere"
