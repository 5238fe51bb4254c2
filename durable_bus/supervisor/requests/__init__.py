"""What clients ask."""

from collections.abc import Callable
from typing import Any, TypeAlias

from durable_bus.supervisor.context import Context
from durable_bus.wire.protocol import Answer, Request

__all__ = ["Handlers"]

Handlers: TypeAlias = dict[type[Request], Callable[[Context, int, Any, list[bytes]], Answer | None]]
"""Who answers which request: from its connection, itself and its bodies. None: not now, or never."""
