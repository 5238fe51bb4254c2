"""Listeners for a journal with payloads of both forms that version 1 knew. See tests/golden/make_forms.py."""

import os
import time

from lxml import etree

from durable_bus import Bus, HandlerMetadata, HandlerResponse

bus = Bus("two-forms")


@bus.listener("say", attempts=1)
def say(text: str) -> str:
    """Text for text, and XML for XML; `bad` fails, `gate` waits for whoever holds it shut."""
    while "gate" in text and "GOLDEN_GATE" in os.environ:
        time.sleep(0.01)
    if "bad" in text:
        raise ValueError("bad")
    return f"<said>{text}</said>" if text.startswith("<") else f"said {text}"


@bus.listener("tag")
def tag(element: etree._Element) -> str:
    """An element always: a text comes as `<item>text</item>`."""
    return f"{element.tag} {element.text}"


@bus.listener("forwarding")
def forwarding(text: str, metadata: HandlerMetadata) -> HandlerResponse:
    """Passes an item on to `say`, and what comes back on to the collector."""
    return HandlerResponse.respond(text) if metadata.from_id == "say" else HandlerResponse(text, "say")
