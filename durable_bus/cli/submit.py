"""`submit`: a fan-out for a daemon."""

from pathlib import Path
from typing import Any

import click

from durable_bus.cli import options
from durable_bus.cli.daemon import client_of_daemon
from durable_bus.cli.follow import follow
from durable_bus.cli.items_file import ItemsFile


@click.command("submit")
@options.target_argument
@options.items_option
@options.items_format_option
@options.journal_option()
@options.buffer_id_option
@click.option("--wait", is_flag=True, help="Wait until it has ended; the exit code then says how.")
@click.option(
    "--no-collect", is_flag=True, help="No BufferComplete is sent; results are journaled all the same."
)
@click.option("--return-to", metavar="NAME", help="The listener or mailbox that gets BufferComplete.")
@options.wait_daemon_option
@options.quiet_option
def submit_command(
    target: str,
    items_path: str,
    items_format: str | None,
    journal: Path,
    wait: bool,
    no_collect: bool,
    wait_daemon_s: float,
    quiet: bool,
    **of_start: Any,
) -> int:
    """Send each item of FILE to the listener TARGET of the app that a daemon serves.

    Prints the buffer's id once all of it is on disk. The same --buffer-id with the same items is the same
    buffer, so a command that was killed can be repeated.

    \b
    durable-bus submit digest --items paths.txt --buffer-id monday --wait
    """
    with ItemsFile(items_path, items_format) as items, client_of_daemon(journal, wait_daemon_s) as client:
        buffer = client.start(target, items, collect=not no_collect, **of_start)
        click.echo(buffer.buffer_id)
        return follow(client.reader(), buffer.buffer_id, None, quiet) if wait else 0
