"""`results`, `export` and `wait`: they only read the journal, whether somebody serves it or not."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import click

from durable_bus.cli import options
from durable_bus.cli.output import Written, write_each, write_latest
from durable_bus.cli.printing import buffer_row, note, print_json
from durable_bus.cli.progress import Progress, open_progress
from durable_bus.client.buffer import ended_how
from durable_bus.errors import JournalDamaged, NotFound, TimedOut
from durable_bus.journal.reader import BufferContent, JournalReader
from durable_bus.payloads.json_values import NotJson, load_json
from durable_bus.payloads.messages import Result

_POLL_S = 0.1
_STALLED_S = 3.0
"""After so long without a result it is said why, where something is known."""


@click.command("results")
@options.buffer_argument
@options.journal_option()
@click.option("--failed", "failed_only", is_flag=True, help="Failed items only.")
@options.results_options
def results_command(
    buffer_id: str, journal: Path, failed_only: bool, format_name: str, with_items: bool, output: Path | None
) -> int:
    """Print the results of BUFFER that are recorded, in item order.

    Of a buffer that has not ended these are some; exit code 1 says that items have failed or are missing.

    \b
    durable-bus results BUFFER --failed --format jsonl
    """
    written = Written(format_name, output, with_items)
    written.check(journal)
    with JournalReader(journal) as reader:
        content = reader.kept(buffer_id)
        if not content.ended:
            note(f"{buffer_id} has not ended: {how_far(content)}")
        elif early := _early_end(reader, content):
            note(f"{buffer_id} {early}")
        write_latest(reader, [content], written, failed_only=failed_only)
        return _exit_code(content)


@click.command("export")
@options.buffer_argument
@options.journal_option()
@options.results_options
def export_command(
    buffer_id: str, journal: Path, format_name: str, with_items: bool, output: Path | None
) -> int:
    """Write the results of BUFFER as one file: XML, jsonl, csv or Parquet.

    Of a buffer that has not ended it writes those that are recorded, says so, and ends with exit code 1. Of a
    damaged journal it writes what can be read, says how much that is, and ends with exit code 5.

    \b
    durable-bus export BUFFER --format csv --output results.csv
    """
    written = Written(format_name, output, with_items)
    written.check(journal)
    try:
        with JournalReader(journal) as reader:
            content = reader.kept(buffer_id)
            if output is None:
                # What is already on stdout cannot be taken back: look for damage before the first byte.
                for _ in reader.results(content.buffer_seq):
                    pass
            if not content.ended:
                note(f"{buffer_id} has not ended: {how_far(content)}")
            elif early := _early_end(reader, content):
                note(f"{buffer_id} {early}")
            write_latest(reader, [content], written)
            return 0 if content.ended else 1
    except JournalDamaged as error:
        note(str(error))
        return _export_what_is_left(buffer_id, journal, written)


def _export_what_is_left(buffer_id: str, journal: Path, written: Written) -> int:
    from durable_bus.journal.admin.salvage import Salvage

    read = 0

    def counted() -> Iterator[Result]:
        nonlocal read
        for result in salvage.results():
            read += 1
            yield result if _is_as_said(result) else result._replace(form="text")

    if written.with_items:
        note("items are not read from a damaged journal")
    with closing(Salvage(journal, buffer_id)) as salvage:
        write_each(counted(), salvage.total, written)
    of = f"{salvage.recorded:,} that were recorded; {max(0, salvage.recorded - read):,} could not"
    note(f"{read:,} results of {buffer_id} could be read, of {of}")
    return JournalDamaged.exit_code


def _is_as_said(result: Result) -> bool:
    """Whether an answer that is said to be JSON is; damage may have made a text of it, of several lines."""
    if result.form != "json":
        return True
    try:
        load_json(result.payload.encode())
    except NotJson:
        return False
    return "\n" not in result.payload


def _exit_code(content: BufferContent) -> int:
    return 0 if content.ended and content.succeeded == content.total else 1


def how_far(content: BufferContent) -> str:
    """Such as `5 of 10 items are recorded`."""
    more = "" if content.sealed or content.ended else " that have come so far"
    return f"{content.succeeded + content.failed:,} of {content.total:,} items{more} are recorded"


@click.command("wait")
@options.buffer_argument
@options.journal_option()
@click.option("--timeout", type=options.SECONDS, metavar="SECONDS", help="Exit code 6 after so long.")
@options.json_option
@options.quiet_option
def wait_command(buffer_id: str, journal: Path, timeout: float | None, as_json: bool, quiet: bool) -> int:
    """Wait until BUFFER has ended; exit code 0 when all its items succeeded, 1 when not.

    It follows the journal: a daemon may end and come back meanwhile, and where none runs it waits for one.

    \b
    durable-bus wait BUFFER --timeout 60 && durable-bus results BUFFER
    """
    with JournalReader(journal) as reader:
        code = follow(reader, buffer_id, timeout, quiet)
        if as_json:
            print_json(buffer_row(reader.buffer(buffer_id)))
        return code


def follow(reader: JournalReader, buffer_id: str, timeout_s: float | None, quiet: bool) -> int:
    """Show how a buffer goes on until it has ended; the exit code. Raises NotFound or TimedOut."""
    progress = open_progress(quiet)
    deadline_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s

    def sleep() -> None:
        time.sleep(max(0.0, min(_POLL_S, deadline_s - time.monotonic())))

    for content in seen_until_end(reader, buffer_id, progress, sleep):
        if not content.ended and time.monotonic() >= deadline_s:
            raise TimedOut(f"{buffer_id} has not ended within {timeout_s:g} s: {how_far(content)}")
    progress.say(f"{buffer_id}: {how_it_ended(reader, content)}")
    return _exit_code(content)


def how_it_ended(reader: JournalReader, content: BufferContent) -> str:
    """Such as `123 items, 0 failed, ended: enough (100 succeeded), 23 missing`."""
    facts = [f"{content.total:,} items", f"{content.failed:,} failed"]
    if early := _early_end(reader, content):
        facts.append(early)
    elif missing := content.total - content.succeeded - content.failed:
        facts.append(f"{missing:,} missing")
    return ", ".join(facts)


def _early_end(reader: JournalReader, content: BufferContent) -> str:
    """Why it ended before all its items had, and how many have no result; "": it has not, or all of them have
    ended.
    """
    how = ended_how(reader.buffer(content.buffer_id)) if content.ended else None
    if how in (None, "all"):
        return ""
    because = {
        "enough": f" ({content.succeeded:,} succeeded)",
        "max_failures": f" ({content.failed:,} failed)",
    }.get(how, "")
    return f"ended: {how}{because}, {content.total - content.succeeded - content.failed:,} missing"


class _Stall:
    """Says once why nothing of a buffer is done, when nothing was for a while."""

    def __init__(self, reader: JournalReader, buffer_id: str, progress: Progress) -> None:
        self._reader, self._buffer_id, self._progress = reader, buffer_id, progress
        self._done: int | None = None
        self._look_at_s = 0.0
        self._said = False

    def see(self, done: int) -> None:
        """So many items are done."""
        now_s = time.monotonic()
        if done != self._done:
            self._done, self._said, self._look_at_s = done, False, now_s + _STALLED_S
        elif not self._said and now_s >= self._look_at_s:
            from durable_bus.cli.facts import waits_for  # only for who must wait

            self._look_at_s = now_s + _STALLED_S
            why = waits_for(self._reader, self._buffer_id)
            if why is not None:
                self._progress.say(f"{self._buffer_id}: {why}")
                self._said = True


def seen_until_end(
    reader: JournalReader, buffer_id: str, progress: Progress, sleep: Callable[[], object]
) -> Iterator[BufferContent]:
    """How a buffer is, again and again and once when it has ended, shown as progress. Raises NotFound."""
    stall = _Stall(reader, buffer_id, progress)
    try:
        while True:
            content = reader.content(buffer_id)
            if content is None:
                raise NotFound(f"no buffer {buffer_id!r:.120} in {reader.path}")
            done = content.succeeded + content.failed
            stall.see(done)
            progress.show(buffer_id, content.total, done, content.failed, more=not content.sealed)
            yield content
            if content.ended:
                return
            sleep()
    finally:
        progress.end()
