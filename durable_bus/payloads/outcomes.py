"""What the return value of a handler leads to, as the worker tells it to the supervisor.

For an item a bare value, None or a response is its answer. Everything else is an *outcome*, one of four
types, and a body of payloads. It is recorded once, whatever else comes later.
"""

from typing import Annotated, Any

import msgspec

from durable_bus.errors import DurableBusError, UnserialisableAnswer, encodable
from durable_bus.payloads.forms import digits_of
from durable_bus.payloads.items import ItemsDigest
from durable_bus.payloads.messages import RESPOND, SYSTEM_BUFFER, BufferStart, HandlerResponse
from durable_bus.payloads.packing import pack
from durable_bus.payloads.values import ValueWriter
from durable_bus.payloads.xml_reading import split_items

__all__ = [
    "End",
    "Form",
    "Forms",
    "Forward",
    "Outcome",
    "Respond",
    "Start",
    "TraceParent",
    "message_outcome",
    "passed_on",
]

Form = Annotated[int, msgspec.Meta(ge=0, le=3)]
"""See `payloads.forms`."""
Forms = Annotated[str, msgspec.Meta(pattern=r"^[0-3]*\Z")]
"""One digit for all payloads of a body, or one for each (`payloads.forms.digits_of`)."""
TraceParent = Annotated[
    str, msgspec.Meta(pattern=r"^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
]
"""The header `traceparent` of W3C Trace Context, version 00: in which trace, and by which span of it,
something was started.
"""


class _Outcome(msgspec.Struct, tag_field="do", forbid_unknown_fields=True, frozen=True, gc=False):
    """What all outcomes have in common. `do` is the tag."""


class Respond(_Outcome, tag="respond", frozen=True):
    """The answer to a message: one payload, for whom its thread was with before."""

    form: Form
    success: bool


class End(_Outcome, tag="none", frozen=True):
    """Nothing is answered to a message, and its thread ends here. No body."""


class Forward(_Outcome, tag="forward", frozen=True):
    """One payload for another name, on the same thread."""

    to: str
    form: Form


class Start(_Outcome, tag="start", frozen=True):
    """A buffer: the body is its items. The fields are those of `messages.BufferStart`, and what the items
    are.
    """

    target: str
    collect: bool
    return_to: str
    buffer_id: str
    count: int
    forms: Forms
    digest: str
    """See `items.ItemsDigest`."""
    traceparent: TraceParent | None = None
    """The span of the handler that starts it; None: nobody traces there."""


Outcome = Respond | End | Forward | Start


def passed_on(writer: ValueWriter, value: HandlerResponse) -> tuple[Forward | Start, bytes] | None:
    """A forward or a start, with its body; None for a response. Raises UnserialisableAnswer."""
    if value.to == RESPOND:
        return None
    if value.to == SYSTEM_BUFFER and isinstance(value.payload, BufferStart):
        return _start(writer, value.payload)
    to = _name("HandlerResponse.to", value.to)
    text, form = writer.answer(value.payload)
    return Forward(to, form), pack([text])


def _name(what: str, value: object) -> str:
    """A name that a handler gave, as it can be sent. Whether anybody has it is the supervisor's to say.

    Raises UnserialisableAnswer for half a surrogate pair: no frame can hold it, nor the journal.
    """
    name = str.__str__(value) if isinstance(value, str) else str(value)
    if encodable(name) != name:
        raise UnserialisableAnswer(f"{what} cannot be written: {name!r:.200}")
    return name


def _start(writer: ValueWriter, start: BufferStart) -> tuple[Start, bytes]:
    try:
        items = split_items(start.items) if isinstance(start.items, str) else start.items
        pairs = [writer.item(item) for item in items]
    except (DurableBusError, TypeError) as error:
        raise UnserialisableAnswer(f"BufferStart.items cannot be journaled: {error}") from error
    texts, forms = [text for text, _ in pairs], bytes(form for _, form in pairs)
    body = pack(texts)
    digest = ItemsDigest()
    digest.update(body, forms)
    outcome = Start(
        target=_name("BufferStart.target", start.target),
        collect=bool(start.collect),
        return_to=_name("BufferStart.return_to", start.return_to),
        buffer_id=_name("BufferStart.buffer_id", start.buffer_id),
        count=len(texts),
        forms=digits_of(forms),
        digest=digest.hexdigest(),
    )
    return outcome, body


def message_outcome(writer: ValueWriter, value: Any) -> tuple[Outcome, bytes]:
    """What the handling of a message led to, with its body. Raises UnserialisableAnswer."""
    if isinstance(value, HandlerResponse):
        found = passed_on(writer, value)
        if found is not None:
            return found
        value = value.payload
    if value is None:
        return End(), b""
    text, form, success = writer.outcome(value)
    return Respond(form, success), pack([text])
