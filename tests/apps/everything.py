"""Listeners for a journal with all in it that the console shows; each does as its item says."""

import os
import signal
import time

from durable_bus import Bus, HandlerMetadata, HandlerResponse, Json, RetryAfter

bus = Bus("everything")
bus.limit("api", rate="6000/min", running=3)


@bus.listener("work", attempts=2)
def work(text: str, metadata: HandlerMetadata) -> object:
    """`gate PATH`: waits for the file; `flaky`: fails once; `bad …`: always; `die`: kills its worker once;
    `say …`: answers that; `json`: answers JSON; `pass`: passes it on to `asked`.
    """
    what, _, argument = text.partition(" ")
    if metadata.from_id == "asked":
        return HandlerResponse.respond(text)
    if what == "gate":
        while not os.path.exists(argument):
            time.sleep(0.005)
    elif what == "bad" or (what == "flaky" and metadata.attempt == 1):
        raise ValueError(f"{text} at attempt {metadata.attempt}")
    elif what == "die" and metadata.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "say":
        return argument
    elif what == "json":
        return Json({"index": metadata.index, "of": metadata.buffer_id})
    elif what == "pass":
        return HandlerResponse(argument, "asked")
    return f"did {text}"


@bus.listener("asked", limits=["api"])
def asked(text: str, metadata: HandlerMetadata) -> str:
    """Under a limit, and not for nothing."""
    metadata.spend(usd=0.25, tokens=100)
    if text.startswith("later") and not os.path.exists(text.partition(" ")[2]):
        raise RetryAfter(0.01)
    return f"answer to {text}"


@bus.listener("person-asks")
def person_asks(text: str, metadata: HandlerMetadata) -> HandlerResponse:
    """Passes each item on to a person, and what comes back on to the collector."""
    if metadata.from_id == "person":
        return HandlerResponse.respond(f"the person says {text}")
    return HandlerResponse(text, "person")


@bus.listener("remembered", memo="1")
def remembered(text: str) -> str:
    return text.upper()


@bus.listener("Odd.name_-9")
def odd(text: str) -> str:
    return text


@bus.listener("echo")
def echo(text: str) -> str:
    return text
