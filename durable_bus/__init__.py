"""Fans items out to worker processes and collects the results, and loses nothing whatever is killed when.

The public names, loaded when first asked for: a worker must not pay for what it does not use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durable_bus.app.bus import Bus
    from durable_bus.client.buffer import Buffer
    from durable_bus.client.client import Client
    from durable_bus.client.mapping import map as map  # not starred
    from durable_bus.client.opened import OpenedJournal
    from durable_bus.errors import BufferError, DurableBusError, ItemFailed, RetryAfter
    from durable_bus.payloads.messages import (
        BufferComplete,
        BufferDispatched,
        BufferItem,
        BufferStart,
        HandlerMetadata,
        HandlerResponse,
        Huh,
        Json,
        Result,
        SystemError,
        Text,
        Xml,
    )

    open = OpenedJournal  # not starred, as `map`

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
    "ItemFailed",
    "Json",
    "Result",
    "RetryAfter",
    "SystemError",
    "Text",
    "Xml",
    "__version__",
]

_MODULES = {
    "Buffer": "client.buffer",
    "Bus": "app.bus",
    "Client": "client.client",
    "DurableBusError": "errors",
    "ItemFailed": "errors",
    "RetryAfter": "errors",
    "map": "client.mapping",
    "open": "client.opened:OpenedJournal",
}

_NOT_STARRED = ("map", "open")
"""Public, but not in `__all__`: a star import must hide no built-in."""


def __getattr__(name: str) -> Any:
    if name not in (*__all__, *_NOT_STARRED):
        raise AttributeError(f"module 'durable_bus' has no attribute {name!r}")
    module, _, attribute = _MODULES.get(name, "payloads.messages").partition(":")
    value = getattr(import_module(f"durable_bus.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_NOT_STARRED])
