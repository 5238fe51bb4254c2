"""The listeners of the simulated app."""

from typing import Any

from durable_bus.payloads.settings import ListenerSettings

__all__ = ["LISTENERS"]


def listener(name: str, **settings: Any) -> ListenerSettings:
    """A row of the table that a worker reports, as `Bus.settings` gives it."""
    default: dict[str, Any] = {
        "timeout_s": 1.0,
        "attempts": 1,
        "backoff_s": 0.0,
        "concurrency": 1,
        "is_async": False,
        "peers": None,
    }
    return ListenerSettings(name, **{**default, **settings})


LISTENERS: dict[str, ListenerSettings] = {
    settings.name: settings
    for settings in (
        listener("once"),
        listener("thrice", attempts=3, backoff_s=0.5),
        listener("at-once", attempts=3),
        listener("many", concurrency=5, is_async=True, attempts=2, backoff_s=0.1),
        listener("guarded", attempts=2, peers=("once", "system.buffer")),
    )
}
