"""Listeners that never come to an end by themselves: whatever they are told, they do the same again."""

from durable_bus import BufferStart, Bus, HandlerResponse, Text

bus = Bus("endless")


@bus.listener("misspelling")
def misspelling(text: str) -> HandlerResponse:
    """Starts a buffer at a name that nobody has."""
    return HandlerResponse(BufferStart("nobody", ["x"], buffer_id="b2"), to="system.buffer")


@bus.listener("complaining")
def complaining(text: str) -> HandlerResponse:
    """The same, and tells of the error a name that nobody has either."""
    if text.startswith("<BufferError>"):
        return HandlerResponse(Text("help"), to="nobody")
    return misspelling(text)
