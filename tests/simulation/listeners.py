"""The listeners of the simulated app."""

from typing import Any, NamedTuple

from msgspec.structs import replace

from durable_bus.payloads.settings import LimitSettings, ListenerSettings
from simulation.handlers import Handler, obey

__all__ = ["LIMITS", "LISTENERS", "SimulatedApp", "limited_by"]


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
        listener("paced", limits=("steady",)),
        listener("narrow", limits=("few",), concurrency=4, is_async=True),
        listener("both", limits=("steady", "few"), attempts=3, backoff_s=0.2, backoff_max_s=0.3, jitter=0.5),
    )
}

LIMITS: dict[str, LimitSettings] = {
    "steady": LimitSettings("steady", "30/s", None),
    "few": LimitSettings("few", None, 3, adaptive=True),
}


def limited_by(
    listeners: dict[str, ListenerSettings], limits: dict[str, LimitSettings]
) -> dict[str, ListenerSettings]:
    """The same listeners in an app that has these limits and no others."""
    return {
        name: replace(settings, limits=tuple(one for one in settings.limits if one in limits))
        for name, settings in listeners.items()
    }


class SimulatedApp(NamedTuple):
    """What the workers of a machine have imported."""

    listeners: dict[str, ListenerSettings] = LISTENERS
    limits: dict[str, LimitSettings] = LIMITS
    handler: Handler = obey
    """Of every listener."""
