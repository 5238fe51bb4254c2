"""`demo`: the code audit over Python's own standard library, and what its journal has to tell."""

import contextlib
import heapq
import shlex
import shutil
import sys
from pathlib import Path
from typing import cast

import click

from durable_bus.cli.embedded import Job, Outcome, run_job
from durable_bus.cli.options import journal_option, quiet_option, workers_option
from durable_bus.cli.printing import duration, printable, rate, shortened
from durable_bus.cli.progress import open_progress
from durable_bus.cli.rows import write_rows
from durable_bus.cli.starting import started_ahead
from durable_bus.examples.code_audit import Metrics, sources
from durable_bus.journal.reader import BufferContent, JournalReader
from durable_bus.payloads.forms import FORM_NAMES
from durable_bus.payloads.reading import PayloadType

_APP = "durable_bus.examples.code_audit:bus"
_MOST_COMPLEX = 10
_METRICS = PayloadType(Metrics)


@click.command("demo")
@journal_option("code-audit.db")
@workers_option
@quiet_option
def demo_command(journal: Path, workers: int | None, quiet: bool) -> int:
    """Audit every module of Python's own standard library.

    Kill it anywhere, Ctrl-C or kill -9, and run it again: it goes on. Some test files there are deliberately
    not Python; they are failed items, and stop nothing. The exit code is 0 when every file has its result.

    \b
    durable-bus demo --workers 2
    """
    with contextlib.closing(started_ahead(_APP, journal, workers)) as own:
        outcome = run_job(Job(_APP, "audit", list(sources()), journal), own, open_progress(quiet))
    with JournalReader(journal) as reader:
        _show(reader, outcome, journal)
    return 0


def _show(reader: JournalReader, outcome: Outcome, journal: Path) -> None:
    buffer = outcome.chain[0]
    click.echo("The most complex modules of Python's standard library")
    write_rows(map(_row, _most_complex(reader, buffer)), "table", sys.stdout)
    click.echo(_summary(reader, outcome))
    for reason in reader.failed_because(buffer.buffer_seq):
        click.echo(f"  {reason['items']:>4} failed: {printable(reason['reason'])}")
    click.echo(f"\nEverything is in {journal}. Ask it more:\n")
    for query in _queries(buffer.buffer_id):
        click.echo(f'  {_sqlite_utils()} {shlex.quote(str(journal))} --table \\\n    "{query}"\n')


def _row(one: Metrics) -> dict[str, object]:
    """So wide that it fits 80 columns."""
    return {
        "module": shortened(one.module, 20),
        "complexity": one.complexity,
        "functions": one.functions,
        "lines": one.lines,
        "longest function": shortened(one.longest_function, 26),
    }


def _most_complex(reader: JournalReader, buffer: BufferContent) -> list[Metrics]:
    successes = (result for result in reader.results(buffer.buffer_seq) if result.success)
    metrics = (cast(Metrics, _METRICS.load(one.payload, FORM_NAMES.index(one.form))) for one in successes)
    return heapq.nlargest(_MOST_COMPLEX, metrics, key=lambda one: one.complexity)


def _summary(reader: JournalReader, outcome: Outcome) -> str:
    buffer = outcome.chain[0]
    if outcome.handled:
        files, seconds = outcome.handled, outcome.seconds
        speed = f"{files:,} of them now, in {duration(seconds)}: {rate(files, seconds)}"
    else:
        files, seconds = buffer.total, reader.buffer(buffer.buffer_id)["seconds"]
        speed = f"all recorded before, within {duration(seconds)}: {rate(files, seconds)}"
    return f"{buffer.total:,} files, {buffer.succeeded:,} audited, {buffer.failed:,} failed; {speed}"


def _sqlite_utils() -> str:
    """The command as this user can type it; it comes with durable_bus."""
    if shutil.which("sqlite-utils"):
        return "sqlite-utils"
    beside = Path(sys.executable).with_name("sqlite-utils")
    return shlex.quote(str(beside)) if beside.exists() else f"{shlex.quote(sys.executable)} -m sqlite_utils"


def _queries(buffer_id: str) -> list[str]:
    """Without any character that means something to a shell between double quotes."""
    return [
        f"SELECT item_index, error FROM results WHERE buffer_id = '{buffer_id}' AND NOT success",
        "SELECT item_index, duration_ms, substr(payload, 1, 60) AS answer"
        " FROM results ORDER BY duration_ms DESC LIMIT 5",
        "SELECT second, results, failures FROM throughput ORDER BY second DESC LIMIT 5",
    ]
