"""`status`: how the journal, its supervisor and its buffers are, cheap however much that holds."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from durable_bus.cli.facts import (
    DISK_IS_FULL,
    RATE_OVER_S,
    budget_text,
    buffer_facts,
    cannot_work,
    early_end_text,
    is_sealed,
    item_text,
    journal_facts,
    running_text,
    state_text,
    supervisor_text,
    why_text,
)
from durable_bus.cli.limits import limit_text
from durable_bus.cli.options import journal_option, json_option, optional_buffer_argument
from durable_bus.cli.printing import amount, answer, printable, size
from durable_bus.errors import UsageError
from durable_bus.journal.reader import JournalReader

_SAID_WHERE_THERE_IS_SOMETHING = (
    "ended_how",
    "completed_at",
    "seconds",
    "return_to",
    "from_id",
    "retry_of",
    "priority",
    "not_before",
    "deadline",
    "waits_for",
)
EXIT_NOBODY_WORKS = 4
"""The code for a supervisor that was lost: here, too, to serve the journal again is what helps."""
_AS_EVER = {"ended_how": "all", "priority": 0}
"""Of these columns, what need not be said either."""


@click.command("status")
@optional_buffer_argument
@journal_option()
@json_option
@click.option(
    "--check",
    is_flag=True,
    help="End with exit code 0 only if a daemon lives or no buffer is open, else with 4.",
)
def status_command(buffer_id: str | None, journal: Path, as_json: bool, check: bool) -> int:
    """Say how the journal, its supervisor and its buffers are; or how BUFFER is, and what failed its items.

    \b
    durable-bus status
    durable-bus status BUFFER --json
    durable-bus status --check > /dev/null || systemctl restart bus
    """
    if check and buffer_id is not None:
        raise UsageError("--check is about the whole journal: leave BUFFER out")
    with JournalReader(journal) as reader:
        if buffer_id is None:
            facts = journal_facts(reader)
            lines = _journal_lines(facts)
        else:
            facts = buffer_facts(reader, buffer_id)
            lines = _buffer_lines(facts)
    answer(as_json, facts, "\n".join(map(printable, lines)))
    return EXIT_NOBODY_WORKS if check and _nobody_works(facts) else 0


def _nobody_works(facts: dict[str, Any]) -> bool:
    """Whether there is open work, and no supervisor that answers. One that hangs does not count as living."""
    return bool(facts["open_count"]) and facts["supervisor"]["state"] != "alive"


def _journal_lines(facts: dict[str, Any]) -> Iterator[str]:
    yield f"journal     {facts['journal']}, {size(facts['journal_bytes'])}" + (
        f" and {size(facts['wal_bytes'])} of write-ahead log" if facts["wal_bytes"] else ""
    )
    for holder in facts["wal_held_back_by"]:
        yield f"            the log cannot shrink: {holder} has a transaction open on it"
    yield f"supervisor  {_supervisor_text(facts)}"
    if facts["supervisor"].get("storage_full"):
        yield f"disk        {DISK_IS_FULL}"
    if facts["run"].get("worker_error"):
        goes_on = ", the code from before goes on" if facts["can_work"] else ""
        yield f"app         {cannot_work(facts['run']['worker_error'], f'cannot be imported{goes_on}')}"
    if facts["listeners"] is not None:
        yield f"listeners   {', '.join(facts['listeners'])}"
    for worker in facts["supervisor"].get("workers", []):
        yield f"worker      {_worker_text(worker)}"
    flying = facts["in_flight"]
    if flying["items"]:
        what = "in flight" if facts["supervisor"]["state"] != "dead" else "interrupted"
        batches = f"{flying['items']:,} items in {flying['dispatches']:,} batches"
        engines = f", at {flying['where']}" if flying["where"] else ""
        yield f"{what:<11} {batches}, since {flying['since']}{engines}"
    if facts["results_per_second"]:
        yield f"rate        {facts['results_per_second']:,.1f} results/s over {RATE_OVER_S} s"
    for limit in facts["limits"]:
        yield f"limit       {limit_text(limit)}"
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
        where, why = item_text(failure), f"{failure['kind']}: {failure['message']}"
        yield f"  {where} attempt {failure['attempt']}: {why}"[: _line_chars_max()]


def _supervisor_text(facts: dict[str, Any]) -> str:
    supervisor, run = facts["supervisor"], facts["run"]
    how = supervisor_text(supervisor, run)
    if how == "not running":
        return how
    if how in ("ended", "crashed"):
        since = run["stopped_at"] or f"after {run['last_commit_at']}"
        return f"not running; run {run['run_id']} {how} {since}"
    state = how if how == "alive" else f"{how}: {supervisor['reason']}"
    process = f"{state}, process {supervisor['pid']}"
    if run.get("pid") != supervisor["pid"]:
        return f"{process}, just starting"
    return f"{process}, run {run['run_id']} of {run['app']} since {run['started_at']}"


def _worker_text(worker: dict[str, Any]) -> str:
    of_engine = f" for engine {printable(worker['engine'])}" if worker.get("engine") else ""
    text = f"{worker['pid']} {worker['state']}{of_engine}"
    if worker.get("old_code"):
        text += ", old code"
    if worker.get("seconds") is not None:
        text += f", {worker['seconds']:.1f} s at {running_text(worker)}"
    return f"{text}, {worker['in_hand']} in hand"


def _rows_text(buffers: list[dict[str, Any]]) -> Iterator[str]:
    for row in buffers:
        failed = f", {row['failed']:,} failed" if row["failed"] else ""
        done = f"{row['completed']:,} of {row['total']:,}"
        state = f"{state_text(row)}{early_end_text(row)}"
        yield f"  {row['buffer_id']} to {row['target']}: {state}, {done}{failed}{why_text(row)}"


def _buffer_lines(facts: dict[str, Any]) -> Iterator[str]:
    for name in ("buffer_id", "state", "target", "total", "successful", "failed", "pending", "created_at"):
        yield f"{name:<13} {facts[name]}"
    if not is_sealed(facts):
        yield f"{'sealed_at':<13} not yet: more items may come"
    for name in _SAID_WHERE_THERE_IS_SOMETHING:
        if facts.get(name) not in (None, "", _AS_EVER.get(name)):
            yield f"{name:<13} {facts[name]}"
    for row in facts["budget"]:
        yield f"{'budget':<13} {budget_text(row)} spent"
    for row in facts["spent"]:
        yield f"{'spent':<13} {amount(row['amount'])} {row['unit']}, by {row['listener']}"
    for reason in facts["failed_because"]:
        yield f"{reason['items']:>14,} failed: {reason['kind']}: {reason['reason']}"


def _line_chars_max() -> int:
    """A line of a terminal, 80 if it does not know; elsewhere what nobody minds."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
