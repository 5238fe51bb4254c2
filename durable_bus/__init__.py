"""Fans items out to worker processes and collects the results, and loses nothing whatever is killed when.

The public names, loaded when first asked for: a worker must not pay for what it does not use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durable_bus.bus import Bus
    from durable_bus.client import Client
    from durable_bus.errors import BufferError, DurableBusError
    from durable_bus.following import Buffer
    from durable_bus.messages import (
        BufferComplete,
        BufferDispatched,
        BufferItem,
        BufferStart,
        HandlerMetadata,
        HandlerResponse,
        Huh,
        Result,
        SystemError,
        Text,
        Xml,
    )

__version__ = "0.1.0"

__all__ = [
    "Buffer",
    "BufferComplete",
    "BufferDispatched",
    "BufferError",
    "BufferItem",
    "BufferStart",
    "Bus",
    "Client",
    "DurableBusError",
    "HandlerMetadata",
    "HandlerResponse",
    "Huh",
    "Result",
    "SystemError",
    "Text",
    "Xml",
    "__version__",
]

_MODULES = {
    "Buffer": "following",
    "Bus": "bus",
    "Client": "client",
    "DurableBusError": "errors",
}


def _running(bus: "Bus", journal: str = "journal.db", workers: int | None = None, **options: Any) -> Any:
    """`Bus.running`; see `running.running`. Bound here because a Bus, which workers load, knows nothing of
    clients.
    """
    return import_module("durable_bus.running").running(bus, journal, workers, **options)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'durable_bus' has no attribute {name!r}")
    value = getattr(import_module(f"durable_bus.{_MODULES.get(name, 'messages')}"), name)
    if name == "Bus":
        value.running = _running
    globals()[name] = value
    return value
