"""`status`: how the journal, its supervisor and its buffers are, cheap however much that holds."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from durable_bus.cli.json_output import buffer_row, print_json
from durable_bus.cli.options import journal_option, json_option
from durable_bus.cli.supervisor_state import DISK_IS_FULL, ask_supervisor, running_text

if TYPE_CHECKING:
    from durable_bus.journal.reader import JournalReader

__all__ = ["status_command"]

_OPEN_MAX = 100
_ABSENT_MAX = 20
_ENDED_MAX = 5
_FAILURES_MAX = 5
_RATE_OVER_S = 10


@click.command("status", short_help="Say how journal, supervisor and buffers are.")
@click.argument("buffer_id", metavar="[BUFFER]", required=False)
@journal_option()
@json_option
def status_command(buffer_id: str | None, journal: Path, as_json: bool) -> int:
    """Say how the journal, its supervisor and its buffers are; or how BUFFER is, and what failed its items.

    \b
    durable-bus status
    durable-bus status BUFFER --json
    """
    from durable_bus.journal.reader import JournalReader

    with JournalReader(journal) as reader:
        if buffer_id is None:
            facts = _journal_facts(reader)
            lines = _journal_lines(facts)
        else:
            facts = _buffer_facts(reader, buffer_id)
            lines = _buffer_lines(facts)
    if as_json:
        print_json(facts)
    else:
        click.echo("\n".join(lines))
    return 0


# Facts


@dataclass(frozen=True, slots=True)
class _Serving:
    """Who serves the journal, and whom messages and items can go to."""

    supervisor: dict[str, Any]
    run: dict[str, Any]
    """The newest, as in `runs`, with `worker_error`."""
    listeners: dict[str, Any] | None
    """The newest table of that run; None before a worker has reported one."""
    can_work: bool
    """A worker has imported the app, in whatever version; where none is told of, one had once."""
    absent: list[dict[str, Any]]
    """Names that have messages waiting, and are neither in the table nor a mailbox, with how many."""


def _serving(reader: JournalReader) -> _Serving:
    from durable_bus.journal.lock import holder_pid

    supervisor = ask_supervisor(reader.path, holder_pid(reader.path))
    run = reader.row("newest_run") or {}
    facts = reader.row("newest_run_facts") or {}
    run["worker_error"] = facts.get("worker_error")
    listeners, absent = None, []
    if facts.get("listeners"):
        listeners = json.loads(facts["listeners"])
        absent = reader.absent_listeners(listeners, limit=_ABSENT_MAX)
    can_work = listeners is not None and supervisor["state"] != "dead"
    if supervisor.get("workers") is not None:
        can_work = any(worker["state"] == "ready" for worker in supervisor["workers"])
    return _Serving(supervisor, run, listeners, can_work, absent)


def _buffer(row: dict[str, Any], reader: JournalReader, serving: _Serving) -> dict[str, Any]:
    """A row of `buffers`, and in `waits_for` why nothing is done about an open one; None: something is."""
    waits_for = _waits_for(row, reader, serving) if row["state"] == "open" else None
    return {**buffer_row(row), "waits_for": waits_for}


def _waits_for(row: dict[str, Any], reader: JournalReader, serving: _Serving) -> str | None:
    if row["paused"]:
        return "it is paused"
    if serving.supervisor["state"] == "dead":
        return "nobody serves the journal"
    if serving.supervisor["state"] == "hung":
        return "the supervisor does not answer"
    if serving.run["worker_error"] and not serving.can_work:
        return f"workers cannot import the app: {serving.run['worker_error']}"
    if serving.listeners is not None and row["target"] not in serving.listeners:
        return f"no listener of the app is called {row['target']}"
    if serving.absent:
        names = [absent["name"] for absent in serving.absent]
        name = reader.waited_for_by_items_of(row["thread_id"], names)
        if name is not None:
            what = "for which a message on the thread of its items waits"
            return f"no listener of the app is called {name}, {what}"
    return None


def _journal_facts(reader: JournalReader) -> dict[str, Any]:
    """Everything at a glance; costs the same however much the journal holds."""
    from durable_bus.journal.admin.wal_readers import wal_readers

    serving = _serving(reader)
    now_ms = time.time_ns() // 1_000_000
    recent = reader.row("recent_results", since_ms=now_ms - 1000 * _RATE_OVER_S) or {}
    return {
        "journal": str(reader.path),
        "journal_bytes": _size_bytes(reader.path),
        "wal_bytes": _size_bytes(Path(f"{reader.path}-wal")),
        "wal_held_back_by": [f"{holder}" for holder in wal_readers(reader.path)],
        "supervisor": serving.supervisor,
        "run": serving.run,
        "can_work": serving.can_work,
        "listeners": None if serving.listeners is None else sorted(serving.listeners),
        "absent_listeners": serving.absent,
        "open_count": (reader.row("open_buffers_count") or {}).get("buffers", 0),
        "open": [_buffer(row, reader, serving) for row in reader.open_buffers(limit=_OPEN_MAX)],
        "ended": [
            _buffer(row, reader, serving) for row in reader.rows("last_ended_buffers", limit=_ENDED_MAX)
        ],
        "in_flight": reader.row("in_flight_count"),
        "results_per_second": recent.get("results", 0) / _RATE_OVER_S,
        "last_failures": reader.rows("last_failures", limit=_FAILURES_MAX),
    }


def _buffer_facts(reader: JournalReader, buffer_id: str) -> dict[str, Any]:
    """One buffer, and what failed its items. Raises NotFound."""
    row = reader.buffer(buffer_id)
    serving = _serving(reader)
    facts = _buffer(row, reader, serving)
    facts["failed_because"] = reader.failed_because(reader.buffer_seq(buffer_id))
    return facts


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


# For people


def _journal_lines(facts: dict[str, Any]) -> Iterator[str]:
    yield f"journal     {facts['journal']}, {_size(facts['journal_bytes'])}" + (
        f" and {_size(facts['wal_bytes'])} of write-ahead log" if facts["wal_bytes"] else ""
    )
    for holder in facts["wal_held_back_by"]:
        yield f"            the log cannot shrink: {holder} has a transaction open on it"
    yield f"supervisor  {_supervisor_text(facts)}"
    if facts["supervisor"].get("storage_full"):
        yield f"disk        {DISK_IS_FULL}"
    if facts["run"].get("worker_error"):
        goes_on = ", the code from before goes on" if facts["can_work"] else ""
        yield f"app         cannot be imported{goes_on}: {facts['run']['worker_error']}"
    if facts["listeners"] is not None:
        yield f"listeners   {', '.join(facts['listeners'])}"
    for worker in facts["supervisor"].get("workers", []):
        yield f"worker      {_worker_text(worker)}"
    flying = facts["in_flight"]
    if flying["items"]:
        what = "in flight" if facts["supervisor"]["state"] != "dead" else "interrupted"
        batches = f"{flying['items']:,} items in {flying['dispatches']:,} batches"
        yield f"{what:<11} {batches}, since {flying['since']}"
    if facts["results_per_second"]:
        yield f"rate        {facts['results_per_second']:,.1f} results/s over {_RATE_OVER_S} s"
    for absent in facts["absent_listeners"]:
        messages = f"{absent['messages']:,} messages for {absent['name']}"
        yield f"waiting     {messages}: no listener of the app is called that"
    yield f"open        {facts['open_count']:,} buffers" if facts["open_count"] else "open        none"
    yield from _rows_text(facts["open"])
    if facts["ended"]:
        yield "ended last"
        yield from _rows_text(facts["ended"])
    if facts["last_failures"]:
        yield "failed last"
        for failure in facts["last_failures"]:
            where = (
                f"{failure['buffer_id']}[{failure['item_index']}]" if failure["buffer_id"] else "a message"
            )
            line = f"  {where} attempt {failure['attempt']}: {failure['kind']}: {failure['message']}"
            yield line[: _line_chars_max()]


def _supervisor_text(facts: dict[str, Any]) -> str:
    supervisor, run = facts["supervisor"], facts["run"]
    if supervisor["state"] == "dead":
        if not run.get("run_id"):
            return "not running"
        how = "ended" if run["ended"] == "clean" else "was lost after"
        return f"not running; run {run['run_id']} {how} {run['stopped_at'] or run['last_commit_at']}"
    state = "alive" if supervisor["state"] == "alive" else f"hung: {supervisor['reason']}"
    if run.get("pid") != supervisor["pid"]:
        return f"{state}, process {supervisor['pid']}, just starting"
    return (
        f"{state}, process {supervisor['pid']}, run {run['run_id']} of {run['app']} since {run['started_at']}"
    )


def _worker_text(worker: dict[str, Any]) -> str:
    text = f"{worker['pid']} {worker['state']}"
    if worker.get("old_code"):
        text += ", old code"
    if worker.get("seconds") is not None:
        text += f", {worker['seconds']:.1f} s at {running_text(worker)}"
    return f"{text}, {worker['in_hand']} in hand"


def _rows_text(buffers: list[dict[str, Any]]) -> Iterator[str]:
    for row in buffers:
        state = "paused" if row["paused"] and row["state"] == "open" else row["state"]
        failed = f", {row['failed']:,} failed" if row["failed"] else ""
        why = f", waits: {row['waits_for']}" if row["waits_for"] else ""
        done = f"{row['completed']:,} of {row['total']:,}"
        yield f"  {row['buffer_id']} to {row['target']}: {state}, {done}{failed}{why}"


def _buffer_lines(facts: dict[str, Any]) -> Iterator[str]:
    yield from (
        f"{name:<13} {facts[name]}"
        for name in ("buffer_id", "state", "target", "total", "successful", "failed", "pending", "created_at")
    )
    for name in ("completed_at", "seconds", "return_to", "from_id", "retry_of", "waits_for"):
        if facts.get(name) not in (None, ""):
            yield f"{name:<13} {facts[name]}"
    for reason in facts["failed_because"]:
        yield f"{reason['items']:>14,} failed: {reason['kind']}: {reason['reason']}"


def _line_chars_max() -> int:
    """A line of a terminal, 80 if it does not know; elsewhere what nobody minds."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 200


def _size(count_bytes: int) -> str:
    size = float(count_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
