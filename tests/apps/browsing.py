"""What a person may want to do something about: items that fail, wait, spend and ask, under a limit."""

import os
import time

from durable_bus import Bus, HandlerMetadata, HandlerResponse

bus = Bus("browsing")
bus.limit("api", rate="1000/s", running=3)


@bus.listener("fail", limits=["api"])
def fail(text: str) -> str:
    """Fails with what it is given, unless that begins with "ok", or the file that REPAIRED names is there."""
    if text.startswith("ok") or os.path.exists(os.environ.get("REPAIRED", "")):
        return text
    raise ValueError(text)


@bus.listener("gate")
def gate(text: str) -> str:
    """Returns when the file that its text names is there."""
    while not os.path.exists(text):
        time.sleep(0.005)
    return "open"


@bus.listener("spend")
def spend(text: str, metadata: HandlerMetadata) -> str:
    metadata.spend(usd=float(text))
    return text


@bus.listener("ask")
def ask(text: str, metadata: HandlerMetadata) -> str | HandlerResponse:
    """Asks a person, and says what that says."""
    return text if metadata.from_id == "person" else HandlerResponse(text, to="person")


@bus.listener("slow")
def slow(text: str) -> str:
    time.sleep(float(text))
    return text
