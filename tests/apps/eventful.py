"""Listeners for a journal in which much has happened; each does as its item says. See tests/eventful.py."""

import os
import signal
import time

from lxml import etree

from durable_bus import BufferComplete, BufferStart, Bus, HandlerMetadata, HandlerResponse

bus = Bus("eventful")


@bus.listener("work", attempts=2)
def work(text: str, metadata: HandlerMetadata) -> str | None:
    """`gate PATH`: waits for the file; `flaky`: fails once; `bad`: always; `die`: kills its worker once."""
    what, _, argument = text.partition(" ")
    if what == "gate":
        while not os.path.exists(argument):
            time.sleep(0.005)
    elif what == "bad" or (what == "flaky" and metadata.attempt == 1):
        raise ValueError(f"{what} at attempt {metadata.attempt}")
    elif what == "die" and metadata.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "slow":
        time.sleep(float(argument))
    return f"did {what}"


@bus.listener("planner")
def planner(text: str, metadata: HandlerMetadata) -> HandlerResponse:
    """Starts a buffer of its own, whose completion comes back to `summary`."""
    items = [f"{text} {number}" for number in range(3)]
    return HandlerResponse(
        BufferStart("work", items, return_to="summary", buffer_id=f"inner-{metadata.index}"), "system.buffer"
    )


@bus.listener("launcher")
def launcher(element: etree._Element) -> HandlerResponse:
    """Starts a buffer and does not wait for it: it answers as soon as the items are on disk."""
    if element.tag == "BufferDispatched":
        return HandlerResponse.respond("launched")
    return HandlerResponse(BufferStart("work", [element.text or ""], False, "", "launched"), "system.buffer")


@bus.listener("summary")
def summary(complete: BufferComplete) -> str:
    return f"{complete.successful} of {complete.total}"


@bus.listener("forwarding")
def forwarding(text: str, metadata: HandlerMetadata) -> HandlerResponse:
    """Passes an item on to `work`, and what comes back on to the collector."""
    return HandlerResponse.respond(text) if metadata.from_id == "work" else HandlerResponse(text, "work")
