"""A supervisor of one's own for `run`, `map` and `demo`, started before anything else is imported.

Nothing heavy is imported here: the supervisor boots while its command imports the rest of itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from durable_bus.app.finding import parse_function_spec, parse_spec
from durable_bus.client.embedded import OwnSupervisor

if TYPE_CHECKING:
    from durable_bus.payloads.settings import MappedSettings

__all__ = ["started_ahead"]


def started_ahead(
    app: str,
    journal: Path,
    workers: int | None,
    *,
    mapped: MappedSettings | None = None,
    durability: str = "full",
    engine: str | None = None,
    engine_workers: int | None = None,
) -> OwnSupervisor:
    """Start it where there is no journal yet; else it is started when there is work for it.

    `app`: module:attribute, of a bus, or of a function where `mapped` is given. Raises BusNotImportable for
    another form, and UsageError.
    """
    spec = parse_spec(app) if mapped is None else parse_function_spec(app, mapped)
    own = OwnSupervisor(
        spec,
        app,
        journal,
        workers,
        durability=durability,
        one_job=True,
        engine=engine,
        engine_workers=engine_workers,
    )
    own.start_ahead()
    return own
