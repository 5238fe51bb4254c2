"""Listeners that never come to an end by themselves: whatever they are told, they do the same again."""

from durable_bus import BufferStart, Bus, HandlerMetadata, HandlerResponse, Text

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


@bus.listener("asking")
def asking(text: str) -> HandlerResponse:
    """Asks somebody who answers."""
    return HandlerResponse(Text("and now?"), to="answering")


@bus.listener("forwarding")
def forwarding(text: str) -> HandlerResponse:
    """Sends itself on, so that its chain grows."""
    return HandlerResponse(Text("and now?"), to="forwarding")


@bus.listener("fanning")
def fanning(text: str) -> HandlerResponse:
    """Starts a new buffer each time."""
    return HandlerResponse(BufferStart("answering", ["x"]), to="system.buffer")


@bus.listener("dispatching")
def dispatching(text: str) -> HandlerResponse:
    """The same, and collects nothing."""
    return HandlerResponse(BufferStart("answering", ["x"], collect=False), to="system.buffer")


@bus.listener("repeating")
def repeating(text: str, metadata: HandlerMetadata) -> HandlerResponse:
    """Starts the same buffer again each time: it is told again of the one that there is."""
    buffer_id = metadata.thread_id.replace("/", ".")
    return HandlerResponse(BufferStart("answering", ["x"], buffer_id=buffer_id), to="system.buffer")


@bus.listener("answering")
def answering(text: str) -> str:
    return "go on"
