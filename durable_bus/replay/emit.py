"""The BufferComplete of an ended buffer, once more. Nothing is sent or written."""

from collections.abc import Iterator
from typing import NamedTuple

from durable_bus.errors import BufferError
from durable_bus.journal.reader import JournalReader
from durable_bus.payloads.characters import escape, representable
from durable_bus.payloads.results_document import results_document

__all__ = ["Emission", "emit"]


class Emission(NamedTuple):
    """A BufferComplete, as it was or will be delivered."""

    message_id: str
    buffer_id: str
    total: int
    successful: int
    results: Iterator[str]
    """The results document, in pieces."""

    def xml(self) -> Iterator[str]:
        """The whole message. Its results are text in it, as everywhere."""
        yield (
            f"<BufferComplete><buffer_id>{escape(representable(self.buffer_id))}</buffer_id>"
            f"<total>{self.total}</total><successful>{self.successful}</successful><results>"
        )
        yield from map(escape, self.results)
        yield "</results></BufferComplete>\n"


def emit(reader: JournalReader, buffer_id: str) -> Emission:
    """The BufferComplete of a buffer, with the message id that it has for good.

    Raises NotFound when there is no such buffer or its results were pruned, BufferError when it has none.
    """
    content = reader.kept(buffer_id)
    if not content.ended:
        raise BufferError(buffer_id, "it has not ended: it has no BufferComplete yet")
    if not content.collect:
        raise BufferError(buffer_id, "it was started with collect=False: it has no BufferComplete")
    results = results_document(reader.results(content.buffer_seq), content.total)
    return Emission(f"{buffer_id}/complete", buffer_id, content.total, content.succeeded, results)
