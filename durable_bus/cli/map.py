"""`map`: a function over a file of items, from beginning to end, with a supervisor of its own."""

from pathlib import Path
from typing import Any

import click

from durable_bus.cli import options
from durable_bus.cli.embedded import Job, run_job
from durable_bus.cli.items_file import ItemsFile
from durable_bus.cli.output import Written
from durable_bus.cli.progress import open_progress
from durable_bus.cli.run import print_outcome
from durable_bus.errors import UsageError
from durable_bus.payloads.messages import check_name
from durable_bus.payloads.settings import MappedSettings


@click.command("map")
@click.argument("function", metavar="MODULE:FUNCTION")
@options.items_option
@options.items_format_option
@options.journal_option()
@options.buffer_id_option
@options.workers_option
@options.results_options
@options.durability_option
@options.retry_failed_option
@options.max_failures_option
@click.option(
    "--timeout",
    type=options.SECONDS,
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long an item may take; 0: no limit.",
)
@click.option(
    "--attempts", type=click.IntRange(1, 1000), default=1, show_default=True, help="How often it is tried."
)
@options.quiet_option
def map_command(
    function: str,
    items_path: str,
    items_format: str | None,
    journal: Path,
    format_name: str,
    with_items: bool,
    output: Path | None,
    timeout: float,
    attempts: int,
    quiet: bool,
    **of_job: Any,
) -> int:
    """Call FUNCTION with each item of FILE, and print what it returns, in order.

    A line is a str; with --items-format jsonl, csv or parquet an item is a JSON value. The function needs no
    Bus. The same command again goes on where it was stopped, as `run` does.

    \b
    durable-bus map os.path:getsize --items paths.txt --format jsonl
    """
    written = Written(format_name, output, with_items)
    written.check(journal, Path(items_path))
    progress = open_progress(quiet)
    settings = MappedSettings(_listener(function), timeout or None, attempts)
    with ItemsFile(items_path, items_format, once=True) as items:
        job = Job(
            function,
            settings.listener,
            items,
            journal,
            is_pipe=items.is_pipe,
            mapped=settings,
            **of_job,
        )
        outcome = run_job(job, progress)
    return print_outcome(outcome, journal, written, progress)


def _listener(function: str) -> str:
    """What the listener is called that the function becomes."""
    try:
        return check_name(function.rpartition(":")[2].rpartition(".")[2], "listener")
    except UsageError:
        return "map"
