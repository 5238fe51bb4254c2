"""`serve`: the daemon, in the foreground. This process becomes the supervisor and never imports the app."""

import os
from pathlib import Path

import click

from durable_bus.cli.options import AGE, SECONDS, durability_option, journal_option, workers_option

__all__ = ["serve_command"]


@click.command("serve")
@click.argument("app", metavar="APP")
@journal_option()
@workers_option
@durability_option
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Where clients connect; default: beside the journal. They find it by the journal.",
)
@click.option(
    "--grace",
    type=SECONDS,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a stop waits for what runs.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--max-items-per-worker",
    type=click.IntRange(min=1),
    metavar="N",
    help="Replace a worker after so many items.",
)
@click.option(
    "--retain", "retain_ms", type=AGE, metavar="AGE", help="Prune what ended longer ago, such as 30d."
)
def serve_command(
    app: str,
    journal: Path,
    workers: int | None,
    durability: str,
    socket_path: Path | None,
    grace: float,
    log_format: str,
    max_items_per_worker: int | None,
    retain_ms: int | None,
) -> int:
    """Serve the journal for APP (module:attribute), in the foreground, until SIGTERM or Ctrl-C.

    A stop finishes what runs, a second one ends at once, SIGHUP loads the app anew. Logs go to stderr.

    \b
    durable-bus serve audit:bus --workers 4 --retain 30d
    """
    from durable_bus.app.finding import parse_spec
    from durable_bus.supervisor.process import DaemonConfig, supervise

    config = DaemonConfig(
        journal=journal,
        app=parse_spec(app),
        app_name=app,
        workers=workers or len(os.sched_getaffinity(0)),
        durability=durability,
        grace_s=grace,
        log_format=log_format,
        items_per_worker_max=max_items_per_worker,
        retain_ms=retain_ms,
        socket=socket_path,
    )
    return supervise(config, None)
