"""Two buses that answer what has come, by its type: one that pickles, and one that does not."""

from typing import Any

from durable_bus import Bus

bus = Bus("payload-kinds")
pickling = Bus("pickling", pickle=True)


def kind(payload: Any) -> str:
    return type(payload).__name__


def answer_as_it_came(payload: Any) -> Any:
    return payload


for _bus in (bus, pickling):
    _bus.listener("kind")(kind)
    _bus.listener("echo")(answer_as_it_came)
