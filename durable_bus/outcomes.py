"""What the return value of a handler leads to, as the worker tells it to the supervisor.

For an item a bare value, None or a response is its answer and takes the fast way (`answers.Segment`).
Everything else is an *outcome*: a dict with `do` = respond, none, forward or start. It is recorded once,
whatever else comes later.
"""

from typing import TYPE_CHECKING, Any

from lxml import etree

from durable_bus.bus import Listener
from durable_bus.channel import pack, unpack
from durable_bus.errors import DurableBusError, MalformedItem, UnserialisableAnswer, encodable
from durable_bus.items import ItemsDigest, form_and_exceptions
from durable_bus.messages import (
    RESPOND,
    SYSTEM_BUFFER,
    BufferComplete,
    BufferError,
    BufferStart,
    HandlerMetadata,
    HandlerResponse,
    Huh,
    SystemError,
)
from durable_bus.xml import dump, dump_item, guess_is_xml, load, result_item, split_items, to_element

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable_bus.messages import Result

__all__ = ["INLINE_RESULTS_BYTES_MAX", "MessageHandling", "metadata_of", "outcome_of", "passed_on"]

INLINE_RESULTS_BYTES_MAX = 4 * 1024 * 1024
"""A BufferComplete's results document up to this size is in it; above, `results` is empty and the metadata
streams.
"""


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


def metadata_of(work: dict[str, Any], index: int) -> HandlerMetadata:
    """Of an item. The thread id is the same at every attempt: a handler's idempotency key."""
    thread_id = f"{work['thread']}/{index}"
    return HandlerMetadata(
        thread_id=thread_id,
        from_id=f"buffer_{work['buffer_id']}_w{index}",
        own_name=work["listener"],
        is_self_call=False,
        message_id=thread_id,
        attempt=work["attempt"],
        buffer_id=work["buffer_id"],
        index=index,
    )


class MessageHandling:
    """Loads a message for its handler, and says what its return value leads to."""

    def __init__(self, journal: str) -> None:
        self._journal = journal

    def arguments(
        self, listener: Listener, work: dict[str, Any], bodies: list[bytes]
    ) -> tuple[Any, HandlerMetadata]:
        """The payload as the handler wants it, and the metadata. Raises MalformedItem."""
        message = work["message"]
        (payload,) = unpack(bodies[0])
        buffer_seq = message["completes"]
        metadata = HandlerMetadata(
            thread_id=message["thread"],
            from_id=message["from"],
            own_name=work["listener"],
            is_self_call=message["from"] == work["listener"],
            message_id=message["id"],
            attempt=work["attempt"],
            _results=(lambda: self._results(buffer_seq)) if buffer_seq else None,
        )
        if buffer_seq:
            return self._complete(listener, payload, buffer_seq), metadata
        return load(payload, work["form"] == 1, listener.annotation), metadata

    def _results(self, buffer_seq: int) -> "Iterator[Result]":
        from durable_bus.journal.reading import JournalReader  # sqlite3 is for the few workers that need it

        with JournalReader(self._journal) as reader:
            yield from reader.results(buffer_seq)

    def _complete(self, listener: Listener, payload: str, buffer_seq: int) -> Any:
        """BufferComplete with its results document, rendered from the rows: the message itself never holds
        it.
        """
        fields: Any = load(payload, True, BufferComplete)
        parts: list[str] = []
        size = 0
        next_index = 0
        for result in self._results(buffer_seq):
            missing = [
                result_item(index, False, "", False, True) for index in range(next_index, result.index)
            ]
            part = "".join(missing) + result_item(result.index, result.success, result.payload, result.is_xml)
            next_index = result.index + 1
            size += len(part)
            if size > INLINE_RESULTS_BYTES_MAX:
                parts = []
                break
            parts.append(part)
        else:
            parts += [result_item(index, False, "", False, True) for index in range(next_index, fields.total)]
        document = f"<results>{''.join(parts)}</results>" if parts else ""
        complete = BufferComplete(fields.buffer_id, fields.total, fields.successful, document)
        if listener.annotation is BufferComplete:
            return complete
        element = to_element(complete)
        if listener.annotation is etree._Element:
            return element
        if listener.annotation is str:
            return etree.tostring(element, encoding="unicode")
        raise MalformedItem(f"{listener.annotation.__name__} expected, BufferComplete came")

    @staticmethod
    def outcome(value: Any) -> tuple[dict[str, Any], bytes]:
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
