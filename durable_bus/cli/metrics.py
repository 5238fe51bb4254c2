"""`metrics`: one page of Prometheus text, for a textfile collector, cron, or whatever serves it."""

import time
from pathlib import Path

import click

from durable_bus.cli.facts import supervisor_facts
from durable_bus.cli.options import journal_option
from durable_bus.journal.admin.metrics import measure
from durable_bus.metrics.page import page


@click.command("metrics")
@journal_option()
def metrics_command(journal: Path) -> int:
    """Print counters, gauges and histograms of the journal and its daemon, as Prometheus reads them.

    \b
    durable-bus metrics > .bus && mv .bus /var/lib/node_exporter/bus.prom
    """
    measured = measure(journal, time.time_ns() // 1_000_000)
    click.echo(page(measured, supervisor_facts(journal)).encode(), nl=False)
    return 0
