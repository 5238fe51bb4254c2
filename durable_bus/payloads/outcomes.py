"""What the return value of a handler leads to, as the worker tells it to the supervisor.

For an item a bare value, None or a response is its answer. Everything else is an *outcome*, one of four
types, and a body of payloads. It is recorded once, whatever else comes later.
"""

from typing import Any

import msgspec

from durable_bus.errors import DurableBusError, UnserialisableAnswer, encodable
from durable_bus.payloads.items import ItemsDigest, form_and_exceptions
from durable_bus.payloads.messages import (
    RESPOND,
    SYSTEM_BUFFER,
    BufferError,
    BufferStart,
    HandlerResponse,
    Huh,
    SystemError,
)
from durable_bus.payloads.packing import pack
from durable_bus.payloads.xml_reading import split_items
from durable_bus.payloads.xml_writing import dump, dump_item

__all__ = ["End", "Forward", "Outcome", "Respond", "Start", "message_outcome", "outcome_of", "passed_on"]


class _Outcome(msgspec.Struct, tag_field="do", forbid_unknown_fields=True, frozen=True, gc=False):
    """What all outcomes have in common. `do` is the tag."""


class Respond(_Outcome, tag="respond", frozen=True):
    """The answer to a message: one payload, for whom its thread was with before."""

    is_xml: bool
    success: bool


class End(_Outcome, tag="none", frozen=True):
    """Nothing is answered to a message, and its thread ends here. No body."""


class Forward(_Outcome, tag="forward", frozen=True):
    """One payload for another name, on the same thread."""

    to: str
    is_xml: bool


class Start(_Outcome, tag="start", frozen=True):
    """A buffer: the body is its items. The fields are those of `messages.BufferStart`, and what the items
    are.
    """

    target: str
    collect: bool
    return_to: str
    buffer_id: str
    count: int
    form: int
    """The form of most items: 1 for XML, 0 for text."""
    exceptions: list[int]
    """The positions of those that have the other form."""
    digest: str
    """See `items.ItemsDigest`."""


Outcome = Respond | End | Forward | Start


def outcome_of(value: Any) -> tuple[str, bool, bool]:
    """(payload, is_xml, success) of an answer. Raises UnserialisableAnswer."""
    text, is_xml = dump(value)
    return text, is_xml, not isinstance(value, (Huh, SystemError, BufferError))


def passed_on(value: HandlerResponse) -> tuple[Forward | Start, bytes] | None:
    """A forward or a start, with its body; None for a response. Raises UnserialisableAnswer."""
    if value.to == RESPOND:
        return None
    if value.to == SYSTEM_BUFFER and isinstance(value.payload, BufferStart):
        return _start(value.payload)
    to = _name("HandlerResponse.to", value.to)
    text, is_xml, _ = outcome_of(value.payload)
    return Forward(to, is_xml), pack([text])


def _name(what: str, value: object) -> str:
    """A name that a handler gave, as it can be sent. Whether anybody has it is the supervisor's to say.

    Raises UnserialisableAnswer for half a surrogate pair: no frame can hold it, nor the journal.
    """
    name = str.__str__(value) if isinstance(value, str) else str(value)
    if encodable(name) != name:
        raise UnserialisableAnswer(f"{what} cannot be written: {name!r:.200}")
    return name


def _start(start: BufferStart) -> tuple[Start, bytes]:
    try:
        items = split_items(start.items) if isinstance(start.items, str) else start.items
        pairs = [dump_item(item) for item in items]
    except (DurableBusError, TypeError) as error:
        raise UnserialisableAnswer(f"BufferStart.items cannot be journaled: {error}") from error
    texts, forms = [text for text, _ in pairs], [is_xml for _, is_xml in pairs]
    body = pack(texts)
    digest = ItemsDigest()
    digest.update(body, forms)
    form, exceptions = form_and_exceptions(forms)
    outcome = Start(
        target=_name("BufferStart.target", start.target),
        collect=bool(start.collect),
        return_to=_name("BufferStart.return_to", start.return_to),
        buffer_id=_name("BufferStart.buffer_id", start.buffer_id),
        count=len(texts),
        form=form,
        exceptions=exceptions,
        digest=digest.hexdigest(),
    )
    return outcome, body


def message_outcome(value: Any) -> tuple[Outcome, bytes]:
    """What the handling of a message led to, with its body. Raises UnserialisableAnswer."""
    if isinstance(value, HandlerResponse):
        found = passed_on(value)
        if found is not None:
            return found
        value = value.payload
    if value is None:
        return End(), b""
    text, is_xml, success = outcome_of(value)
    return Respond(is_xml, success), pack([text])
