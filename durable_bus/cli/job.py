"""What is to be run, and by which supervisor of its own.

This is little to import. `run` starts the supervisor with it, and imports the rest of itself (`embedded`)
while that boots.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from durable_bus.app.finding import parse_function_spec, parse_spec
from durable_bus.client.embedded import OwnSupervisor
from durable_bus.payloads.settings import MappedSettings

if TYPE_CHECKING:
    from durable_bus.wire.parts import Terms

__all__ = ["Job"]


@dataclass(frozen=True, slots=True)
class Job:
    """A buffer, from its beginning to its end."""

    app: str
    """module:attribute, of a bus; or of a function, where `mapped` is given."""
    target: str
    items: Iterable[object]
    journal: Path
    is_pipe: bool = False
    """The items can be read only once, and take as long to come as they take."""
    mapped: MappedSettings | None = None
    buffer_id: str | None = None
    workers: int | None = None
    engine: str | None = None
    engine_workers: int | None = None
    durability: str = "full"
    retry_failed: bool = False
    max_failures: int | None = None
    terms: Terms | None = None

    def own_supervisor(self) -> OwnSupervisor:
        """Not started yet. Raises BusNotImportable."""
        app = parse_spec(self.app) if self.mapped is None else parse_function_spec(self.app, self.mapped)
        return OwnSupervisor(
            app,
            self.app,
            self.journal,
            self.workers,
            durability=self.durability,
            engine=self.engine,
            engine_workers=self.engine_workers,
        )
