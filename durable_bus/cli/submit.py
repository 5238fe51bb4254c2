"""`submit`: a fan-out for a daemon."""

from pathlib import Path
from typing import Any

import click

from durable_bus.cli import options
from durable_bus.cli.daemon import client_of_daemon
from durable_bus.cli.feeding import feed_stream
from durable_bus.cli.follow import follow
from durable_bus.cli.items_file import ItemsFile
from durable_bus.cli.progress import open_progress
from durable_bus.client.buffer_ids import check_buffer_id
from durable_bus.client.terms import terms_of
from durable_bus.client.upload import items_of_bus
from durable_bus.errors import UsageError


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
@click.option(
    "--stream",
    is_flag=True,
    help="Hand items out as they come; needs --buffer-id. Killed, the same command goes on.",
)
@options.terms_options
@click.option(
    "--max-failures", type=click.IntRange(min=1), metavar="N", help="End it when N items have failed."
)
@options.wait_daemon_option
@options.quiet_option
def submit_command(
    target: str,
    items_path: str,
    items_format: str | None,
    journal: Path,
    wait: bool,
    no_collect: bool,
    return_to: str | None,
    buffer_id: str | None,
    stream: bool,
    wait_daemon_s: float,
    quiet: bool,
    **terms: Any,
) -> int:
    """Send each item of FILE to the listener TARGET of the app that a daemon serves.

    Prints the buffer's id once all of it is on disk. The same --buffer-id with the same items is the same
    buffer, so a command that was killed can be repeated. With --stream the first items run while the last
    ones are still to come, such as those of a pipe.

    \b
    durable-bus submit digest --items paths.txt --buffer-id monday --wait
    durable-bus submit ask --items prompts.jsonl --budget usd=5 --not-before +2h
    """
    of_stream = terms_of(**terms)  # what can be refused at once is
    if stream and buffer_id is None:
        raise UsageError("--stream needs --buffer-id: by it the same command goes on with the stream")
    with (
        ItemsFile(items_path, items_format, once=stream) as items,
        client_of_daemon(journal, wait_daemon_s) as client,
    ):
        if stream:
            assert buffer_id is not None
            check_buffer_id(buffer_id)
            upload = client.stream_upload(
                target,
                buffer_id,
                collect=not no_collect,
                return_to=return_to or "",
                terms=of_stream,
            )
            feed_stream(client, upload, iter(items), items_of_bus, open_progress(quiet))
        else:
            buffer_id = client.start(
                target, items, collect=not no_collect, return_to=return_to, buffer_id=buffer_id, **terms
            ).buffer_id
        click.echo(buffer_id)
        return follow(client.reader(), buffer_id, None, quiet) if wait else 0
