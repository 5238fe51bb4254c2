"""`serve`: the daemon, in the foreground. This process becomes the supervisor and never imports the app."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from durable_bus.cli.config_file import config_option
from durable_bus.cli.options import (
    AGE,
    SECONDS,
    Command,
    durability_option,
    engine_options,
    journal_option,
    workers_option,
)
from durable_bus.errors import UsageError
from durable_bus.wire.cores import usable_cores

if TYPE_CHECKING:
    from durable_bus.supervisor.process import DaemonConfig


def serve_options(command: Command) -> Command:
    """What `serve` is told; `unit` is told the same."""
    for option in (
        click.option(
            "--retain", "retain_ms", type=AGE, metavar="AGE", help="Prune what ended longer ago, such as 30d."
        ),
        click.option(
            "--max-items-per-worker",
            "items_per_worker_max",
            type=click.IntRange(min=1),
            metavar="N",
            help="Replace a worker after so many items.",
        ),
        click.option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="json: an object a line, with its level; also what handlers print, with worker, buffer and "
            "item.",
        ),
        click.option(
            "--grace",
            "grace_s",
            type=SECONDS,
            default=10.0,
            show_default=True,
            metavar="SECONDS",
            help="How long a stop waits for what runs.",
        ),
        click.option(
            "--socket",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="Where clients connect; default: beside the journal. They find it by the journal.",
        ),
        durability_option,
        engine_options,
        workers_option,
        journal_option(),
        config_option,
        click.argument("app", metavar="[APP]", required=False),
    ):  # the last of them comes first in --help
        command = option(command)
    return command


def daemon_config(
    app: str | None,
    workers: int | None,
    engine: str | None,
    engine_workers: int | None,
    config: Path | None,
    **settings: Any,
) -> DaemonConfig:
    """Of what `serve_options` give. Raises a DurableBusError when no daemon can be made of that."""
    from durable_bus.app.finding import parse_spec
    from durable_bus.client.embedded import engine_spec
    from durable_bus.supervisor.process import DaemonConfig

    if app is None:
        raise UsageError(
            "which app? Give APP, such as audit:bus, or app = 'audit:bus' in the file of --config"
        )
    spec = engine_spec(engine, engine_workers, workers)
    count = 1 if spec is not None else workers or usable_cores()
    return DaemonConfig(app=parse_spec(app), app_name=app, workers=count, engine=spec, **settings)


@click.command("serve")
@serve_options
def serve_command(**options: Any) -> int:
    """Serve the journal for APP (module:attribute), in the foreground, until SIGTERM or Ctrl-C.

    A stop finishes what runs, a second one ends at once, SIGHUP loads the app anew. Logs go to stderr.

    \b
    durable-bus serve audit:bus --workers 4 --retain 30d
    durable-bus serve audit:bus --engine dask:tcp://10.0.0.1:8786
    durable-bus serve --config serve.toml
    """
    from durable_bus.supervisor.process import supervise

    return supervise(daemon_config(**options), None)
