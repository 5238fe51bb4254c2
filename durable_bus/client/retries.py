"""Which items of an ended buffer are started again."""

from collections.abc import Iterator

from durable_bus.errors import BufferError
from durable_bus.journal.reader import BufferContent, JournalReader
from durable_bus.payloads.messages import Json, Pickled, Text, Xml

__all__ = ["unsuccessful"]


def unsuccessful(
    reader: JournalReader, content: BufferContent, indexes: frozenset[int] | None
) -> Iterator[Text | Xml | Json | Pickled]:
    """Its failed and missing items, in their order; only these, if `indexes` says which.

    Raises BufferError when there are none to be had; behind the last one when some of `indexes` is none of
    them: nothing may be started then.
    """
    buffer_id = content.buffer_id
    if not content.ended:
        raise BufferError(buffer_id, "it has not ended yet: what failed of it is not known")
    if content.succeeded == content.total:
        raise BufferError(buffer_id, "every item has succeeded: nothing to start again")
    if content.pruned:
        raise BufferError(buffer_id, "its items and results were pruned: they cannot be started again")
    if indexes is None:
        return reader.unsuccessful_items(content)
    if not indexes:
        raise BufferError(buffer_id, "no items are said: nothing to start again")
    return _all_of(reader, content, indexes)


def _all_of(
    reader: JournalReader, content: BufferContent, indexes: frozenset[int]
) -> Iterator[Text | Xml | Json | Pickled]:
    count = 0
    for item in reader.unsuccessful_items(content, indexes):
        count += 1
        yield item
    if count < len(indexes):
        why = f"of these {len(indexes):,} items only {count:,} have failed or are missing"
        raise BufferError(content.buffer_id, why)
