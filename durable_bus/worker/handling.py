"""What a handler is given: the payload as its annotation wants it, and the metadata."""

from typing import TYPE_CHECKING, Any

from lxml import etree

from durable_bus.app.bus import Listener
from durable_bus.errors import MalformedItem
from durable_bus.payloads.forms import XML
from durable_bus.payloads.messages import BufferComplete, HandlerMetadata
from durable_bus.payloads.packing import unpack
from durable_bus.payloads.reading import AS_IT_IS, PayloadType
from durable_bus.payloads.results_document import results_document
from durable_bus.payloads.xml_writing import to_element
from durable_bus.wire.work import WorkItems, WorkMessage
from durable_bus.worker.replies import Spending

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable_bus.payloads.messages import Result

__all__ = ["INLINE_RESULTS_BYTES_MAX", "MessageHandling", "metadata_of"]

INLINE_RESULTS_BYTES_MAX = 4 * 1024 * 1024
"""A longer results document is not in its BufferComplete (`results` is empty): the metadata streams."""


def metadata_of(work: WorkItems, index: int, spending: Spending) -> HandlerMetadata:
    """Of an item. The thread id is the same at every attempt: a handler's idempotency key."""
    thread_id = f"{work.thread}/{index}"
    return HandlerMetadata(
        thread_id=thread_id,
        from_id=f"buffer_{work.buffer_id}_w{index}",
        own_name=work.listener,
        is_self_call=False,
        message_id=thread_id,
        attempt=work.attempt,
        buffer_id=work.buffer_id,
        index=index,
        _spend=spending,
    )


class MessageHandling:
    """Loads a message for its handler."""

    def __init__(self, journal: str) -> None:
        self._journal = journal

    def arguments(
        self, listener: Listener, work: WorkMessage, bodies: list[bytes], spending: Spending
    ) -> tuple[Any, HandlerMetadata]:
        """The payload as the handler wants it, and the metadata. Raises MalformedItem."""
        (payload,) = unpack(bodies[0])
        buffer_seq = work.completes
        metadata = HandlerMetadata(
            thread_id=work.thread,
            from_id=work.from_id,
            own_name=work.listener,
            is_self_call=work.from_id == work.listener,
            message_id=work.message_id,
            attempt=work.attempt,
            _results=None if buffer_seq is None else lambda: self._results(buffer_seq),
            _spend=spending,
        )
        if buffer_seq is not None:
            return self._complete(listener, payload, buffer_seq), metadata
        try:
            return listener.payload_type.load(payload, work.form), metadata
        except MalformedItem as error:
            # What is said above an item may be the answer to a forward: then it matters whose it is.
            raise MalformedItem(f"from {work.from_id}: {error}") from None

    def _results(self, buffer_seq: int) -> "Iterator[Result]":
        from durable_bus.journal.reader import JournalReader  # sqlite3 is for the few workers that need it

        with JournalReader(self._journal) as reader:
            yield from reader.results(buffer_seq)

    def _complete(self, listener: Listener, payload: str, buffer_seq: int) -> Any:
        """BufferComplete with its results document, made of the rows: the message itself never holds it."""
        fields: Any = PayloadType(BufferComplete).load(payload, XML)
        parts: list[str] = []
        size = 0
        for part in results_document(self._results(buffer_seq), fields.total):
            parts.append(part)
            size += len(part)
            if size > INLINE_RESULTS_BYTES_MAX:
                parts = []
                break
        document = "".join(parts)
        complete = BufferComplete(fields.buffer_id, fields.total, fields.successful, document)
        if listener.annotation is BufferComplete:
            return complete
        element = to_element(complete)
        if listener.annotation in (etree._Element, AS_IT_IS, object):
            return element
        if listener.annotation is str:
            return etree.tostring(element, encoding="unicode")
        raise MalformedItem(f"{listener.annotation.__name__} expected, BufferComplete came")
