"""`replay`: what happened, how it was then, what a start would do, doing it, doing it again to compare."""

from __future__ import annotations

import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from durable_bus.cli.facts import state_text
from durable_bus.cli.interrupts import interrupted_by
from durable_bus.cli.options import buffer_argument, journal_option, json_option, quiet_option, workers_option
from durable_bus.cli.output import write_results
from durable_bus.cli.printing import note, print_json, printable
from durable_bus.cli.progress import open_progress
from durable_bus.cli.rows import write_rows
from durable_bus.client.buffer import BufferStatus
from durable_bus.errors import Interrupted
from durable_bus.journal.admin.history import History
from durable_bus.journal.lock import holder_pid
from durable_bus.journal.reader import JournalReader

if TYPE_CHECKING:
    from durable_bus.replay.finish import Finished
    from durable_bus.replay.rerun import Comparison, Difference

_TIMELINE_CELLS = 40
_RUNS_SHOWN = 50
_INTERRUPTED_SHOWN = 5
_RANGES_SHOWN = 10
_COLUMNS_AT = ("buffer_id", "target", "state", "total", "completed", "failed", "pending", "in_flight")
_COLUMNS_LIMITS = ("name", "rate", "running", "allowed", "rests_until", "by_hand")
_COLUMNS_SPENDING = ("buffer_id", "unit", "amount", "times")
_BUFFERS_SHOWN = (
    "opened", "completed", "ended_by_enough", "ended_by_max_failures", "ended_by_deadline", "cancelled",
    "pruned",
)  # fmt: skip
_COLUMNS_FINISHED = ("buffer_id", "state", "total", "completed", "successful", "failed")
_COLOURS = {"clean": "green", "crashed": "red", "running": "cyan"}


@click.group("replay")
def replay_command() -> None:
    """See what happened in a journal, and do again what a crash left behind.

    Everything but `finish` only reads, also while a daemon serves the journal.

    \b
    durable-bus replay show
    durable-bus replay at 2026-01-31T12:00:00Z
    durable-bus replay plan --json
    durable-bus replay finish audit:bus
    durable-bus replay emit BUFFER
    durable-bus replay rerun BUFFER audit:bus
    """


@replay_command.command("show")
@journal_option()
@click.option("--all", "show_all", is_flag=True, help=f"All runs, not only the last {_RUNS_SHOWN}.")
@json_option
def show_command(journal: Path, show_all: bool, as_json: bool) -> int:
    """Show what happened, run by run, and what each crash interrupted.

    \b
    durable-bus replay show --all
    """
    served_by = holder_pid(journal)
    with History(journal) as history:
        runs = history.runs(served=served_by is not None)
    if as_json:
        print_json({"journal": str(journal), "served_by": served_by, "runs": runs})
        return 0
    who = f"served by process {served_by}" if served_by else "nobody serves it"
    click.echo(f"{printable(str(journal))}: {who}")
    shown = runs if show_all else runs[-_RUNS_SHOWN:]
    if len(shown) < len(runs):
        click.echo(f"{len(runs) - len(shown)} earlier runs are left out, --all shows them")
    for run in shown:
        _print_run(run, _seconds(shown[0]["started_at"]), max(map(_end_seconds, shown)))
    return 0


def _seconds(time: str) -> float:
    """Since the epoch."""
    return datetime.fromisoformat(time).timestamp()


def _end_seconds(run: dict[str, Any]) -> float:
    """When a run showed its last sign of life."""
    return _seconds(run["stopped_at"] or run["last_commit_at"] or run["started_at"])


def _print_run(run: dict[str, Any], begin_s: float, end_s: float) -> None:
    """`begin_s` and `end_s`: the time that all runs together span."""
    colour = _COLOURS[run["ended"]]
    lasted_s = _end_seconds(run) - _seconds(run["started_at"])
    click.echo(
        f"{click.style('run ' + str(run['run_id']), bold=True)} {_bar(run, begin_s, end_s)} "
        f"{click.style(run['ended'], colour)} "
        f"{run['started_at']}, {lasted_s:,.1f} s, process {run['pid']}, {printable(run['app'])}"
    )
    click.echo("    " + _what_happened(run))
    interrupted = run["interrupted"]
    mark = click.style("interrupted", "red")
    for one in interrupted[:_INTERRUPTED_SHOWN]:
        last = one["first_index"] + one["item_count"] - 1
        done = f", {one['answered']} of them answered before" if one["answered"] else ""
        engine = f" of {printable(one['where'])}" if one["where"] else ""
        click.echo(
            f"    {mark} items {one['first_index']} to {last} of {one['buffer_id']}{done}, "
            f"attempt {one['attempt']}, sent to worker {one['worker_pid']}{engine} at {one['sent_at']}"
        )
    if len(interrupted) > _INTERRUPTED_SHOWN:
        rest = sum(one["item_count"] for one in interrupted[_INTERRUPTED_SHOWN:])
        click.echo(f"    {mark} {rest:,} items more, --json names them")


def _bar(run: dict[str, Any], begin_s: float, end_s: float) -> str:
    """Where the run lies in the time that all of them span."""
    scale = (_TIMELINE_CELLS - 1) / max(end_s - begin_s, 0.001)
    first = int((_seconds(run["started_at"]) - begin_s) * scale)
    last = int((_end_seconds(run) - begin_s) * scale)
    mark = {"clean": "■", "crashed": "✗", "running": "▶"}[run["ended"]]
    before = click.style("·" * first, dim=True)
    after = click.style("·" * (_TIMELINE_CELLS - 1 - last), dim=True)
    return before + click.style("━" * (last - first) + mark, _COLOURS[run["ended"]]) + after


def _what_happened(run: dict[str, Any]) -> str:
    facts = [f"{run['results']:,} results"]
    of_them = f", {run['came_back']:,} of them by RetryAfter" if run["came_back"] else ""
    facts += [f"{run['failures']:,} failed attempts{of_them}"] if run["failures"] else []
    facts += [f"{run[what]:,} buffers {what.replace('_by_', ' by ')}" for what in _BUFFERS_SHOWN if run[what]]
    facts += [f"{run['workers_died']:,} workers died"] if run["workers_died"] else []
    if run["last_commit"] is not None:
        facts.append(f"commits {run['first_commit']} to {run['last_commit']}")
    return ", ".join(facts)


@replay_command.command("at")
@click.argument("moment", metavar="COMMIT|TIME")
@journal_option()
@json_option
def at_command(moment: str, journal: Path, as_json: bool) -> int:
    """Show every buffer as it was after a commit, or at a time (ISO 8601, UTC unless it says otherwise).

    Below them the limits as they were, and what had been spent. What was pruned since cannot be counted any
    more. Buffers given up before they opened leave nothing.

    \b
    durable-bus replay at 2026-01-31T12:00:00Z
    durable-bus replay at 41
    """
    with History(journal) as history:
        then = history.at(history.commit_of(moment))
    if as_json:
        print_json(then)
        return 0
    is_commit = then["run_id"] is not None
    when = f"run {then['run_id']}, {then['committed_at']}" if is_commit else "nothing had happened yet"
    click.echo(f"after commit {then['commit']} of {then['newest_commit']}, {when}")
    rows = [
        {name: {**row, "state": _state_then(row)}[name] for name in _COLUMNS_AT} for row in then["buffers"]
    ]
    write_rows(rows, "table", sys.stdout)
    for heading, columns in (("limits", _COLUMNS_LIMITS), ("spending", _COLUMNS_SPENDING)):
        if then[heading]:
            click.echo(f"\n{heading}")
            rows = [{name: row[name] for name in columns} for row in then[heading]]
            write_rows(rows, "table", sys.stdout)
    unknown = [row["buffer_id"] for row in then["buffers"] if row["completed"] is None]
    if unknown:
        note(f"pruned since, so not countable: {', '.join(unknown)}")
    return 0


def _state_then(row: dict[str, Any]) -> str:
    """With how a buffer ended, or why it was paused, where the state alone does not say it."""
    state = state_text(row)
    if row["state"] == "complete" and row["ended_how"] != "all":
        return f"{state} by {row['ended_how']}"
    return f"{state} by budget" if row["paused_why"] == "budget" and row["state"] == "open" else state


@replay_command.command("plan")
@journal_option()
@json_option
def plan_command(journal: Path, as_json: bool) -> int:
    """Show what a start would hand out now, retries that are due later included.

    It is the supervisor's own start that is asked, on a private copy of the open work.

    \b
    durable-bus replay plan --json
    """
    from durable_bus.replay.plan import plan

    planned = plan(journal)
    if as_json:
        print_json({"buffers": planned.buffers})
        return 0
    for buffer in planned.buffers:
        ranges = [
            f"{first}" if count == 1 else f"{first}-{first + count - 1}" for first, count in buffer["ranges"]
        ]
        more = len(ranges) - _RANGES_SHOWN
        shown = ", ".join(ranges[:_RANGES_SHOWN]) + (f" and {more:,} ranges more" if more > 0 else "")
        click.echo(f"{buffer['buffer_id']}: {buffer['outstanding']:,} items: {shown}")
    for name, count in planned.messages.items():
        click.echo(f"{count:,} messages to {name}")
    for buffer_id in planned.paused:
        click.echo(f"{buffer_id}: nothing, it is paused")
    for buffer_id in planned.unsealed:
        click.echo(f"{buffer_id}: not sealed, more items may come")
    if not (planned.buffers or planned.messages):
        click.echo("nothing: a start would hand out no item and no message")
    return 0


@replay_command.command("finish")
@click.argument("app", metavar="APP")
@journal_option()
@workers_option
@json_option
@quiet_option
def finish_command(app: str, journal: Path, workers: int | None, as_json: bool, quiet: bool) -> int:
    """Complete all that is open or in flight with APP (module:attribute), and stop. The one that writes.

    Exit code 1 when items have failed or are missing, 4 when something could not be completed. --json prints
    {"buffers": [{"buffer_id", "state", "total", "completed", "successful", "failed"}, ...], "left": [...]}:
    what was open at the beginning, and a line for each thing that was left.

    \b
    durable-bus replay finish audit:bus
    """
    from durable_bus.replay.finish import finish

    progress = open_progress(quiet)
    most = 0

    def tell(items: int) -> None:
        nonlocal most
        most = max(most, items)
        if most:
            progress.show("open buffers", most, most - items)

    try:
        finished = finish(journal, app, workers, tell)
    finally:
        progress.end()
    if as_json:
        buffers = [{name: row[name] for name in _COLUMNS_FINISHED} for row in finished.buffers]
        print_json({"buffers": buffers, "left": finished.left})
    else:
        _print_finished(finished)
    if finished.left:
        raise Interrupted(f"{len(finished.left)} things could not be completed now")
    return 1 if any(row["successful"] < row["total"] for row in finished.buffers) else 0


def _print_finished(finished: Finished) -> None:
    for row in finished.buffers:
        failed = f", {row['failed']:,} failed" if row["failed"] else ""
        click.echo(f"{row['buffer_id']}: {row['state']}, {row['completed']:,} of {row['total']:,}{failed}")
    if not finished.buffers:
        note("no buffer was open")
    for line in finished.left:
        note(f"left: {line}")


@replay_command.command("emit")
@buffer_argument
@journal_option()
@json_option
def emit_command(buffer_id: str, journal: Path, as_json: bool) -> int:
    """Print the BufferComplete of BUFFER again, under the same message id. Nothing is sent.

    \b
    durable-bus replay emit BUFFER > complete.xml
    """
    from durable_bus.replay.emit import emit

    with JournalReader(journal) as reader:
        emission = emit(reader, buffer_id)
        if as_json:
            print_json({**emission._asdict(), "results": "".join(emission.results)})
        else:
            click.echo(f"message {emission.message_id}", err=True)
            write_results(emission.xml(), None)
    return 0


@replay_command.command("rerun")
@buffer_argument
@click.argument("app", metavar="APP")
@journal_option()
@workers_option
@click.option(
    "--show",
    "shown_max",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="Differences to print.",
)
@json_option
@quiet_option
def rerun_command(
    buffer_id: str, app: str, journal: Path, workers: int | None, shown_max: int, as_json: bool, quiet: bool
) -> int:
    """Run the journaled items of BUFFER through today's APP and show which answers differ.

    They run in a scratch journal; this one is only read. Exit code 1 when any answer differs, so that it
    serves as a regression test of handlers. XML is compared in its canonical form.

    \b
    durable-bus replay rerun BUFFER audit:bus
    """
    from durable_bus.replay.rerun import rerun

    progress = open_progress(quiet)
    shown = 0

    def tell(difference: Difference) -> None:
        nonlocal shown
        shown += 1
        if not as_json and shown <= shown_max:
            _print_difference(difference)

    def watch(status: BufferStatus) -> None:
        progress.show(f"{buffer_id} again", status.total, status.completed, status.failed)
        if status.completed == status.total:
            progress.end()  # differences are printed from now on

    with interrupted_by(signal.SIGTERM):  # the scratch journal goes away as after Ctrl-C
        try:
            comparison = rerun(journal, buffer_id, app, workers, tell, watch)
        finally:
            progress.end()
    if as_json:
        print_json(comparison._asdict())
    else:
        _print_comparison(comparison, shown_max)
    return 1 if comparison.differ else 0


def _print_difference(difference: Difference) -> None:
    item = difference.item if len(difference.item) <= 100 else difference.item[:99] + "…"
    click.echo(f"item {difference.index}: {printable(' '.join(item.split()))}")
    for line in difference.lines:
        click.secho(f"    {printable(line)}", fg={"-": "red", "+": "green"}.get(line[:1]))


def _print_comparison(comparison: Comparison, shown_max: int) -> None:
    differ = len(comparison.differ)
    if differ > shown_max:
        click.echo(f"… and {differ - shown_max:,} differences more")
    click.echo(f"{comparison.compared:,} answers compared, {differ:,} differ")
