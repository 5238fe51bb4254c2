"""What is known of items, messages and buffers, and by which key."""

import hashlib
from dataclasses import dataclass

from durable_bus.wire.parts import Terms
from durable_bus.wire.work import Work, WorkMessage

__all__ = ["INDEX_BITS", "Answer", "Content", "Execution", "Violation", "key_of", "traceparent_of"]

INDEX_BITS = 32
NO_TERMS = Terms()


class Violation(AssertionError):
    """A promise is broken."""


def key_of(work: Work, index: int) -> int:
    """Of an item as in the journal, `buffer_seq << 32 | item_index`; of a message minus its `message_seq`."""
    return work.dispatch if isinstance(work, WorkMessage) else (work.buffer << INDEX_BITS) + index


def traceparent_of(buffer_id: str) -> str | None:
    """The span that a client starts a buffer in; of half of them none."""
    digest = hashlib.sha256(buffer_id.encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01" if digest[-1] in "01234567" else None


@dataclass(frozen=True)
class Content:
    """What a client wants done, all of it."""

    buffer_id: str
    target: str
    collect: bool
    texts: tuple[str, ...]
    forms: tuple[int, ...]
    return_to: str = ""
    terms: Terms = NO_TERMS
    """Under which it runs, when its client is the first."""


@dataclass(frozen=True)
class Answer:
    """What a handler answered."""

    text: str
    success: bool
    form: int


@dataclass
class Execution:
    """One run of an item in a worker."""

    worker_id: int
    begun_ns: int
    timeout_s: float | None
    state: str = "running"
    """`running`, `ended` (its answer is in the worker), `answered` or `failed` (in the pipe), `gone`."""
