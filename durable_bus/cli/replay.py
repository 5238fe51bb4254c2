"""`replay`: what happened, how it was then, what a start would do, doing it, doing it again to compare."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from durable_bus.cli.json_output import print_json
from durable_bus.cli.options import buffer_argument, journal_option, json_option, quiet_option, workers_option

if TYPE_CHECKING:
    from rich.console import Console

    from durable_bus.replay.replay import Comparison, Difference, Finished

__all__ = ["replay_command"]

_TIMELINE_CELLS = 40
_RUNS_SHOWN = 50
_INTERRUPTED_SHOWN = 5
_RANGES_SHOWN = 10
_COLUMNS_AT = ("buffer_id", "target", "state", "total", "completed", "failed", "pending", "in_flight")
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


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


# show


@replay_command.command("show")
@journal_option()
@click.option("--all", "show_all", is_flag=True, help=f"All runs, not only the last {_RUNS_SHOWN}.")
@json_option
def show_command(journal: Path, show_all: bool, as_json: bool) -> int:
    """Show what happened, run by run, and what each crash interrupted.

    \b
    durable-bus replay show --all
    """
    from durable_bus.cli.rows import printable
    from durable_bus.journal.admin.history import History
    from durable_bus.journal.lock import holder_pid

    served_by = holder_pid(journal)
    with History(journal) as history:
        runs = history.runs(served=served_by is not None)
    if as_json:
        print_json({"journal": str(journal), "served_by": served_by, "runs": runs})
        return 0
    console = _console()
    who = f"served by process {served_by}" if served_by else "nobody serves it"
    console.print(f"{printable(str(journal))}: {who}", markup=False)
    shown = runs if show_all else runs[-_RUNS_SHOWN:]
    if len(shown) < len(runs):
        console.print(f"{len(runs) - len(shown)} earlier runs are left out, --all shows them")
    begin, end = _span(shown)
    for run in shown:
        _print_run(console, run, begin, end)
    return 0


def _span(runs: list[dict[str, Any]]) -> tuple[float, float]:
    """From the first start to the last sign of life, in seconds since the epoch."""
    if not runs:
        return 0.0, 1.0
    ends = [_seconds(_last_seen(run)) for run in runs]
    begin = _seconds(runs[0]["started_at"])
    return begin, max(*ends, begin + 0.001)


def _seconds(time: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(time).timestamp()


def _last_seen(run: dict[str, Any]) -> str:
    return str(run["stopped_at"] or run["last_commit_at"] or run["started_at"])


def _print_run(console: Console, run: dict[str, Any], begin: float, end: float) -> None:
    from rich.markup import escape

    colour = _COLOURS[run["ended"]]
    console.print(
        f"[bold]run {run['run_id']}[/] {_bar(run, begin, end)} [{colour}]{run['ended']}[/] "
        f"{run['started_at']}, {_lasted(run)}, process {run['pid']}, {escape(run['app'])}"
    )
    console.print("    " + _what_happened(run))
    interrupted = run["interrupted"]
    for one in interrupted[:_INTERRUPTED_SHOWN]:
        last = one["first_index"] + one["item_count"] - 1
        done = f", {one['answered']} of them answered before" if one["answered"] else ""
        console.print(
            f"    [red]interrupted[/] items {one['first_index']} to {last} of {one['buffer_id']}{done}, "
            f"attempt {one['attempt']}, sent to worker {one['worker_pid']} at {one['sent_at']}"
        )
    if len(interrupted) > _INTERRUPTED_SHOWN:
        rest = sum(one["item_count"] for one in interrupted[_INTERRUPTED_SHOWN:])
        console.print(f"    [red]interrupted[/] {rest:,} items more, --json names them")


def _bar(run: dict[str, Any], begin: float, end: float) -> str:
    """Where the run lies in the time that all of them span."""
    scale = _TIMELINE_CELLS / (end - begin)
    first = min(_TIMELINE_CELLS - 1, max(0, int((_seconds(run["started_at"]) - begin) * scale)))
    last = min(_TIMELINE_CELLS - 1, max(first, int((_seconds(_last_seen(run)) - begin) * scale)))
    mark = {"clean": "■", "crashed": "✗", "running": "▶"}[run["ended"]]
    bar = "━" * (last - first) + mark
    return (
        f"[dim]{'·' * first}[/][{_COLOURS[run['ended']]}]{bar}[/][dim]{'·' * (_TIMELINE_CELLS - 1 - last)}[/]"
    )


def _lasted(run: dict[str, Any]) -> str:
    return f"{_seconds(_last_seen(run)) - _seconds(run['started_at']):,.1f} s"


def _what_happened(run: dict[str, Any]) -> str:
    facts = [f"{run['results']:,} results"]
    facts += [f"{run['failures']:,} failed attempts"] if run["failures"] else []
    facts += [
        f"{run[what]:,} buffers {what}"
        for what in ("opened", "completed", "cancelled", "pruned")
        if run[what]
    ]
    facts += [f"{run['workers_died']:,} workers died"] if run["workers_died"] else []
    if run["last_commit"] is not None:
        facts.append(f"commits {run['first_commit']} to {run['last_commit']}")
    return ", ".join(facts)


# at


@replay_command.command("at")
@click.argument("moment", metavar="COMMIT|TIME")
@journal_option()
@json_option
def at_command(moment: str, journal: Path, as_json: bool) -> int:
    """Show every buffer as it was after a commit, or at a time (ISO 8601, UTC unless it says otherwise).

    What was pruned since cannot be counted any more. Buffers given up before they opened leave nothing.

    \b
    durable-bus replay at 2026-01-31T12:00:00Z
    durable-bus replay at 41
    """
    import sys

    from durable_bus.cli.rows import write_rows
    from durable_bus.journal.admin.history import History

    with History(journal) as history:
        then = history.at(history.commit_of(moment))
    if as_json:
        print_json(then)
        return 0
    is_commit = then["run_id"] is not None
    when = f"run {then['run_id']}, {then['committed_at']}" if is_commit else "nothing had happened yet"
    click.echo(f"after commit {then['commit']} of {then['newest_commit']}, {when}")
    rows = [{name: _cell(row, name) for name in _COLUMNS_AT} for row in then["buffers"]]
    write_rows(rows, "table", sys.stdout)
    unknown = [row["buffer_id"] for row in then["buffers"] if row["completed"] is None]
    if unknown:
        click.echo(f"durable-bus: pruned since, so not countable: {', '.join(unknown)}", err=True)
    return 0


def _cell(row: dict[str, Any], name: str) -> Any:
    is_paused = name == "state" and row["paused"] and row["state"] == "open"
    return "paused" if is_paused else row[name]


# plan


@replay_command.command("plan")
@journal_option()
@json_option
def plan_command(journal: Path, as_json: bool) -> int:
    """Show what a start would hand out now, retries that are due later included.

    It is the supervisor's own start that is asked, on a private copy of the open work.

    \b
    durable-bus replay plan --json
    """
    from durable_bus.replay.replay import plan

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
    if not (planned.buffers or planned.messages):
        click.echo("nothing: a start would hand out no item and no message")
    return 0


# finish


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
    from durable_bus.cli.progress import open_progress
    from durable_bus.errors import Interrupted
    from durable_bus.replay.replay import finish

    progress = open_progress(quiet)
    most = 0

    def tell(buffers: int, items: int) -> None:
        nonlocal most
        if items > most:
            most = items
            progress.begin(f"{buffers} open buffers", most)
        if most:
            progress.update(most - items, 0)

    try:
        finished = finish(journal, app, workers=workers, tell=tell)
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
        click.echo("durable-bus: no buffer was open", err=True)
    for line in finished.left:
        click.echo(f"durable-bus: left: {line}", err=True)


# emit


@replay_command.command("emit")
@buffer_argument
@journal_option()
@json_option
def emit_command(buffer_id: str, journal: Path, as_json: bool) -> int:
    """Print the BufferComplete of BUFFER again, under the same message id. Nothing is sent.

    \b
    durable-bus replay emit BUFFER > complete.xml
    """
    from durable_bus.cli.output import write_results
    from durable_bus.journal.reader import JournalReader
    from durable_bus.replay.replay import emit

    with JournalReader(journal) as reader:
        emission = emit(reader, buffer_id)
        if as_json:
            print_json(
                {
                    "message_id": emission.message_id,
                    "buffer_id": emission.buffer_id,
                    "total": emission.total,
                    "successful": emission.successful,
                    "results": "".join(emission.pieces),
                }
            )
        else:
            click.echo(f"message {emission.message_id}", err=True)
            write_results(emission.xml(), None)
    return 0


# rerun


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
    from durable_bus.cli.interrupts import interrupted_by
    from durable_bus.cli.progress import open_progress
    from durable_bus.replay.replay import rerun

    progress = open_progress(quiet)
    shown = 0

    def tell(difference: Difference) -> None:
        nonlocal shown
        shown += 1
        if not as_json and shown <= shown_max:
            _print_difference(difference)

    begun = False

    def watch(total: int, recorded: int, failed: int) -> None:
        nonlocal begun
        if not begun:
            progress.begin(f"{buffer_id} again", total)
        begun = True
        progress.update(recorded, failed)
        if recorded == total:
            progress.end()

    with interrupted_by(signal.SIGTERM):  # the scratch journal goes away as after Ctrl-C
        try:
            comparison = rerun(journal, buffer_id, app, workers=workers, tell=tell, watch=watch)
        finally:
            progress.end()
    if as_json:
        print_json({"compared": comparison.compared, "differ": comparison.differ})
    else:
        _print_comparison(comparison, shown_max)
    return 1 if comparison.differ else 0


def _print_difference(difference: Difference) -> None:
    from durable_bus.cli.rows import printable

    item = difference.item if len(difference.item) <= 100 else difference.item[:99] + "…"
    click.echo(f"item {difference.index}: {printable(' '.join(item.split()))}")
    for line in difference.lines:
        click.secho(f"    {printable(line)}", fg={"-": "red", "+": "green"}.get(line[:1]))


def _print_comparison(comparison: Comparison, shown_max: int) -> None:
    differ = len(comparison.differ)
    if differ > shown_max:
        click.echo(f"… and {differ - shown_max:,} differences more")
    click.echo(f"{comparison.compared:,} answers compared, {differ:,} differ")
