"""A function in the place of an app: the Bus of one listener that `durable_bus.map` runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from durable_bus.app.bus import Bus
from durable_bus.app.handler_signature import is_async
from durable_bus.payloads.exact import exact_answer
from durable_bus.payloads.settings import MappedSettings

__all__ = ["bus_of"]


def bus_of(function: Callable[..., Any], settings: MappedSettings) -> Bus:
    """A bus whose one listener calls the function with an item's value, and answers with what it returns:
    both come back equal and of the same type (`payloads.exact`). Raises UsageError for a generator function.
    """
    bus = Bus("map", pickle=True)
    declare = bus.listener(settings.listener, timeout=settings.timeout_s, attempts=settings.attempts)
    if not isinstance(function, type) and is_async(settings.listener, function):
        declare(_awaiting(function))
    else:
        declare(_calling(function))
    return bus


def _calling(function: Callable[..., Any]) -> Callable[[Any], Any]:
    def handler(value: Any) -> Any:
        return exact_answer(function(value))

    return handler


def _awaiting(function: Callable[..., Any]) -> Callable[[Any], Any]:
    async def handler(value: Any) -> Any:
        return exact_answer(await function(value))

    return handler
