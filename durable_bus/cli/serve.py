"""`serve`: the daemon, in the foreground. This process becomes the supervisor and never imports the app."""

import os
from pathlib import Path
from typing import Any

import click

from durable_bus.cli.options import (
    AGE,
    SECONDS,
    durability_option,
    engine_options,
    journal_option,
    workers_option,
)


@click.command("serve")
@click.argument("app", metavar="APP")
@journal_option()
@workers_option
@engine_options
@durability_option
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Where clients connect; default: beside the journal. They find it by the journal.",
)
@click.option(
    "--grace",
    "grace_s",
    type=SECONDS,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a stop waits for what runs.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--max-items-per-worker",
    "items_per_worker_max",
    type=click.IntRange(min=1),
    metavar="N",
    help="Replace a worker after so many items.",
)
@click.option(
    "--retain", "retain_ms", type=AGE, metavar="AGE", help="Prune what ended longer ago, such as 30d."
)
def serve_command(
    app: str, workers: int | None, engine: str | None, engine_workers: int | None, **config: Any
) -> int:
    """Serve the journal for APP (module:attribute), in the foreground, until SIGTERM or Ctrl-C.

    A stop finishes what runs, a second one ends at once, SIGHUP loads the app anew. Logs go to stderr.

    \b
    durable-bus serve audit:bus --workers 4 --retain 30d
    durable-bus serve audit:bus --engine dask:tcp://10.0.0.1:8786
    """
    from durable_bus.app.finding import parse_spec
    from durable_bus.client.embedded import engine_spec
    from durable_bus.supervisor.process import DaemonConfig, supervise

    spec = engine_spec(engine, engine_workers, workers)
    count = 1 if spec is not None else workers or len(os.sched_getaffinity(0))
    return supervise(
        DaemonConfig(app=parse_spec(app), app_name=app, workers=count, engine=spec, **config), None
    )
