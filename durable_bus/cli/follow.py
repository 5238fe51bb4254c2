"""`results` and `wait`: they only read the journal, whether somebody serves it or not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from durable_bus.cli.json_output import buffer_row, print_json
from durable_bus.cli.options import (
    SECONDS,
    buffer_argument,
    format_option,
    journal_option,
    json_option,
    output_option,
    quiet_option,
)
from durable_bus.errors import NotFound, TimedOut

if TYPE_CHECKING:
    from durable_bus.journal.reader import BufferContent, JournalReader

__all__ = ["follow", "results_command", "wait_command"]

_POLL_S = 0.1


def _content(reader: JournalReader, buffer_id: str) -> BufferContent:
    content = reader.content(buffer_id)
    if content is None:
        raise NotFound(f"no buffer {buffer_id!r} in {reader.path}")
    return content


def _exit_code(content: BufferContent) -> int:
    return 0 if content.ended and content.succeeded == content.total else 1


# results


@click.command("results", short_help="Print a buffer's results.")
@buffer_argument
@journal_option()
@format_option
@click.option("--failed", "failed_only", is_flag=True, help="Failed items only.")
@output_option
def results_command(
    buffer_id: str, journal: Path, format_name: str, failed_only: bool, output: Path | None
) -> int:
    """Print the results of BUFFER that are recorded, in item order.

    Of a buffer that has not ended these are some; exit code 1 says that items have failed or are missing.

    \b
    durable-bus results BUFFER --failed --format jsonl
    """
    from durable_bus.cli.output import check_output, not_ended, render, write_results
    from durable_bus.journal.reader import JournalReader

    check_output(output, journal)
    with JournalReader(journal) as reader:
        content = _content(reader, buffer_id)
        if content.pruned:
            raise NotFound(f"the results of {buffer_id} were pruned")
        if not content.ended:
            click.echo(f"durable-bus: {not_ended(content)}", err=True)
        write_results(render(reader, [content], format_name, failed_only=failed_only), output)
        return _exit_code(content)


# wait


@click.command("wait", short_help="Wait until a buffer has ended.")
@buffer_argument
@journal_option()
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="Exit code 6 after so long.")
@json_option
@quiet_option
def wait_command(buffer_id: str, journal: Path, timeout: float | None, as_json: bool, quiet: bool) -> int:
    """Wait until BUFFER has ended; exit code 0 when all its items succeeded, 1 when not.

    It follows the journal: a daemon may end and come back meanwhile, and where none runs it waits for one.

    \b
    durable-bus wait BUFFER --timeout 60 && durable-bus results BUFFER
    """
    from durable_bus.journal.reader import JournalReader

    with JournalReader(journal) as reader:
        content = follow(reader, buffer_id, timeout, quiet)
        if as_json:
            print_json(buffer_row(reader.buffer(buffer_id)))
        return _exit_code(content)


def follow(reader: JournalReader, buffer_id: str, timeout_s: float | None, quiet: bool) -> BufferContent:
    """Show how a buffer goes on until it has ended. Raises NotFound or TimedOut."""
    import time

    from durable_bus.cli.progress import open_progress

    content = _content(reader, buffer_id)
    progress = open_progress(quiet)
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    progress.begin(buffer_id, content.total, content.succeeded + content.failed, content.failed)
    try:
        while not content.ended:
            left_s = _POLL_S if deadline_s is None else min(_POLL_S, deadline_s - time.monotonic())
            if left_s <= 0:
                recorded = content.succeeded + content.failed
                raise TimedOut(
                    f"{buffer_id} has not ended within {timeout_s:g} s: "
                    f"{recorded:,} of {content.total:,} items are recorded"
                )
            time.sleep(left_s)
            content = _content(reader, buffer_id)
            progress.update(content.succeeded + content.failed, content.failed)
    finally:
        progress.end()
    missing = content.total - content.succeeded - content.failed
    facts = [f"{content.total:,} items", f"{content.failed:,} failed"]
    progress.say(f"{buffer_id}: {', '.join(facts + ([f'{missing:,} missing'] if missing else []))}")
    return content
