"""`trace`: who ran what when, for a trace viewer. It only reads the journal."""

from pathlib import Path

import click

from durable_bus.cli import options
from durable_bus.cli.output import check_output, write_results
from durable_bus.cli.printing import note
from durable_bus.journal.lock import holder_pid


@click.command("trace")
@options.buffer_argument
@options.journal_option()
@options.output_option
def trace_command(buffer_id: str, journal: Path, output: Path | None) -> int:
    """Write who ran what of BUFFER when, as a trace that ui.perfetto.dev and chrome://tracing open.

    A process is a run of the supervisor, a thread is a worker or, of an engine, the place where it ran. How
    long an item took is exact; when it began is not journaled, and drawn as it can have been. Of a buffer
    that has not ended it shows what has happened so far. `--output -` is stdout.

    \b
    durable-bus trace BUFFER --output trace.json
    """
    from durable_bus.journal.admin.traced import TracedBuffer
    from durable_bus.replay.trace import trace

    output = None if output == Path("-") else output
    check_output(output, journal)
    with TracedBuffer(journal, buffer_id) as buffer:
        if buffer.life["ended_ms"] is None:
            note(f"{buffer_id} has not ended: the trace shows what has happened until now")
        write_results(trace(buffer, served=holder_pid(journal) is not None), output)
    return 0
