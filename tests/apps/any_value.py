"""Listeners that take a payload as the value that it is."""

from typing import Any

from durable_bus import Bus, Json

bus = Bus("any-value")


@bus.listener("echo")
def echo(value: Any) -> Any:
    return value


@bus.listener("shape")
def shape(value: dict[str, Any]) -> Any:
    """An answer of whatever shape the item asks for; ValueError for `{"fail": ...}`."""
    if "fail" in value:
        raise ValueError(value["fail"])
    return Json(value.get("answer", value))
