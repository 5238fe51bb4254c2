"""What the return value of a handler leads to, as the worker tells it to the supervisor.

For an item a bare value, None or a response is its answer and takes the fast way (`replies.Segment`).
Everything else is an *outcome*: a dict with `do` = respond, none, forward or start. It is recorded once,
whatever else comes later.
"""

from typing import TYPE_CHECKING, Any

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
from durable_bus.payloads.xml import dump, dump_item, guess_is_xml, split_items

if TYPE_CHECKING:
    pass

__all__ = ["message_outcome", "outcome_of", "passed_on"]


def outcome_of(value: Any) -> tuple[str, bool, bool]:
    """(payload, is_xml, success) of an answer. Raises UnserialisableAnswer."""
    text, is_xml = dump(value)
    return text, is_xml, not isinstance(value, (Huh, SystemError, BufferError))


def passed_on(value: HandlerResponse) -> tuple[dict[str, Any], bytes] | None:
    """A forward or a start, with its body; None for a response. Raises UnserialisableAnswer."""
    if value.to == RESPOND:
        return None
    if value.to == SYSTEM_BUFFER and isinstance(value.payload, BufferStart):
        return _start(value.payload)
    to = _name("HandlerResponse.to", value.to)
    text, is_xml, _ = outcome_of(value.payload)
    return {"do": "forward", "to": to, "is_xml": is_xml}, pack([text])


def _name(what: str, value: object) -> str:
    """A name that a handler gave, as it can be sent. Whether anybody has it is the supervisor's to say.

    Raises UnserialisableAnswer for half a surrogate pair: no frame can hold it, nor the journal.
    """
    name = str.__str__(value) if isinstance(value, str) else str(value)
    if encodable(name) != name:
        raise UnserialisableAnswer(f"{what} cannot be written: {name!r:.200}")
    return name


def _start(start: BufferStart) -> tuple[dict[str, Any], bytes]:
    try:
        if isinstance(start.items, str):
            texts = split_items(start.items)
            forms = [guess_is_xml(text) for text in texts]
            for text in texts:
                dump_item(text)
        else:
            pairs = [dump_item(item) for item in start.items]
            texts, forms = [text for text, _ in pairs], [is_xml for _, is_xml in pairs]
    except (DurableBusError, TypeError) as error:
        raise UnserialisableAnswer(f"BufferStart.items cannot be journaled: {error}") from error
    body = pack(texts)
    digest = ItemsDigest()
    digest.update(body, forms)
    form, exceptions = form_and_exceptions(forms)
    return {
        "do": "start",
        "target": _name("BufferStart.target", start.target),
        "collect": bool(start.collect),
        "return_to": _name("BufferStart.return_to", start.return_to),
        "buffer_id": _name("BufferStart.buffer_id", start.buffer_id),
        "count": len(texts),
        "form": form,
        "exceptions": exceptions,
        "digest": digest.hexdigest(),
    }, body


def message_outcome(value: Any) -> tuple[dict[str, Any], bytes]:
    """What the handling of a message led to, with its body. Raises UnserialisableAnswer."""
    if isinstance(value, HandlerResponse):
        found = passed_on(value)
        if found is not None:
            return found
        value = value.payload
    if value is None:
        return {"do": "none"}, b""
    text, is_xml, success = outcome_of(value)
    return {"do": "respond", "is_xml": is_xml, "success": success}, pack([text])
