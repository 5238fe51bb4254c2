"""`map`: a function over a file of items, from beginning to end, with a supervisor of its own."""

from typing import Any

import click

from durable_bus.app.finding import mapped_settings
from durable_bus.cli import options
from durable_bus.cli.run import run_items


@click.command("map")
@click.argument("function", metavar="MODULE:FUNCTION")
@options.run_options
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
def map_command(function: str, timeout: float, attempts: int, **given: Any) -> int:
    """Call FUNCTION with each item of FILE, and print what it returns, in order.

    A line is a str; with --items-format jsonl, csv or parquet an item is a JSON value. The function needs no
    Bus. The same command again goes on where it was stopped, as `run` does.

    \b
    durable-bus map os.path:getsize --items paths.txt --format jsonl
    """
    settings = mapped_settings(function.rpartition(":")[2].rpartition(".")[2], timeout or None, attempts)
    return run_items(app=function, target=settings.listener, mapped=settings, **given)
