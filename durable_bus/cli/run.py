"""`run`: a fan-out from beginning to end, with a supervisor of its own."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from durable_bus.cli import options
from durable_bus.cli.starting import started_ahead

if TYPE_CHECKING:
    from durable_bus.client.embedded import OwnSupervisor
    from durable_bus.payloads.settings import MappedSettings


@click.command("run")
@click.argument("app", metavar="APP")
@options.target_argument
@options.run_options
@options.terms_options
def run_command(**given: Any) -> int:
    """Send each item of FILE to the listener TARGET of APP, and print the results in order.

    APP is module:attribute, such as audit:bus. The first items run while the last ones are read. The same
    command again goes on where a crash, a kill or Ctrl-C stopped it; when all is recorded it prints the
    records and runs nothing. Of a pipe the first 256 items say whether it is the same. Where failed items
    were retried, the newest result of each item is printed.

    The options of when it runs and how long hold as the first such command has given them. When its budget is
    spent it stops, with exit code 1; the same command grants as much again, and goes on.

    \b
    durable-bus run audit:bus digest --items paths.txt > results.xml
    durable-bus run facts:bus extract --items docs.jsonl --format jsonl
    """
    from durable_bus.client.terms import terms_of

    terms = terms_of(**{name: given.pop(name) for name in options.TERMS})
    return run_items(terms=terms, **given)


def run_items(
    app: str,
    journal: Path,
    workers: int | None,
    durability: str,
    engine: str | None,
    engine_workers: int | None,
    mapped: MappedSettings | None = None,
    **given: Any,
) -> int:
    """What `options.run_options` ask for; the exit code."""
    own = started_ahead(
        app,
        journal,
        workers,
        mapped=mapped,
        durability=durability,
        engine=engine,
        engine_workers=engine_workers,
    )
    with contextlib.closing(own):
        return _run(own, app=app, journal=journal, mapped=mapped, **given)


def _run(
    own: OwnSupervisor,
    items_path: str,
    items_format: str | None,
    journal: Path,
    format_name: str,
    with_items: bool,
    output: Path | None,
    quiet: bool,
    **of_job: Any,
) -> int:
    # To import this takes as long as the supervisor takes to boot.
    from durable_bus.cli.embedded import Job, run_job
    from durable_bus.cli.follow import how_it_ended
    from durable_bus.cli.items_file import ItemsFile
    from durable_bus.cli.output import Written, write_latest
    from durable_bus.cli.printing import duration, rate
    from durable_bus.cli.progress import open_progress
    from durable_bus.journal.reader import JournalReader

    written = Written(format_name, output, with_items)
    written.check(journal, Path(items_path))
    progress = open_progress(quiet)
    with ItemsFile(items_path, items_format, once=True) as items:
        job = Job(items=items, journal=journal, is_pipe=items.is_pipe, **of_job)
        outcome = run_job(job, own, progress)
    if outcome.stopped_early:
        return 1
    buffer = outcome.chain[0]
    now = f"{outcome.handled:,} now in {duration(outcome.seconds)}, {rate(outcome.handled, outcome.seconds)}"
    with JournalReader(journal) as reader:
        facts = f"{buffer.total:,} items, {outcome.unsuccessful:,} failed"
        if len(outcome.chain) == 1:
            facts = how_it_ended(reader, buffer)
        progress.say(f"{buffer.buffer_id}: {facts}" + (f" ({now})" if outcome.handled else ""))
        write_latest(reader, outcome.chain, written)
    return 1 if outcome.unsuccessful else 0
