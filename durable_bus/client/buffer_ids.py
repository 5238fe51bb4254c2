"""What buffers are called: which ids may be, and those that we choose."""

import hashlib
from collections.abc import Collection

from durable_bus.errors import BufferError, UsageError
from durable_bus.journal.reader import BufferContent
from durable_bus.payloads.messages import NAME_CHARS_MAX, check_name

__all__ = [
    "KEY_ITEMS",
    "check_buffer_id",
    "default_buffer_id",
    "next_retry_id",
    "retry_id_of_some",
    "why_used",
]

KEY_ITEMS = 256
"""So many items, the first ones, make the id of a buffer that was given none, and whose last item is not
known before it has come.
"""
_DIGEST_CHARS = 16
_RETRY_BASE_CHARS = 80
"""How long the id before `.retry1` is where it had to be cut."""
_RETRY_DIGEST_CHARS = 32
_SOME_DIGEST_CHARS = 8


def check_buffer_id(buffer_id: str) -> None:
    """Raises BufferError when no buffer may have this id."""
    try:
        check_name(buffer_id, "buffer")
    except UsageError as error:
        raise BufferError(str(buffer_id)[:100] or "unknown", str(error)) from None


def next_retry_id(content: BufferContent) -> str:
    """What a retry of this buffer is called: `BUFFER.retry1`, and the retry of that `BUFFER.retry2`.

    Where that would be longer than a buffer id may be, BUFFER is cut, and a digest of the whole of it put in
    place of its end: the same each time, and of no two buffers the same. It leaves room for further retries.
    """
    base, dot, number = content.buffer_id.rpartition(".retry")
    if not (content.is_retry and dot and number.isdecimal()):
        base, number = content.buffer_id, "0"
    return _with_suffix(base, f".retry{int(number) + 1}")


def retry_id_of_some(content: BufferContent, indexes: Collection[int]) -> str:
    """What a retry of only these items of a buffer is called: `BUFFER.retry-` and a digest of their indexes.
    It is cut as `next_retry_id` cuts.
    """
    text = ",".join(map(str, sorted(indexes)))
    digest = hashlib.sha256(text.encode()).hexdigest()[:_SOME_DIGEST_CHARS]
    return _with_suffix(content.buffer_id, f".retry-{digest}")


def _with_suffix(base: str, suffix: str) -> str:
    if len(base) + len(suffix) > NAME_CHARS_MAX:
        digest = hashlib.sha256(base.encode()).hexdigest()[:_RETRY_DIGEST_CHARS]
        base = f"{base[: _RETRY_BASE_CHARS - len(digest) - 1]}.{digest}"
    return base + suffix


def default_buffer_id(app: str, target: str, digest: str) -> str:
    """The same for the same app or function, target and items, so that the same call or command finds its
    buffer again. `digest`: of the items, or of the first KEY_ITEMS.
    """
    text = "\n".join([app, target, digest])
    suffix = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_CHARS]
    try:
        return f"{check_name(target, 'target')[:60]}-{suffix}"
    except UsageError:
        return f"run-{suffix}"  # no listener is called like that: the start will say so


def why_used(known: BufferContent, target: str) -> str | None:
    """Why a buffer is not one that sends items to `target` and gives their results to whoever asks for them;
    None: it is, whatever its items are.
    """
    if known.pruned:
        return "its items and results were pruned, and its id stays used"
    if known.target != target or not known.collect or known.return_to:
        return "this id is used already, with other target, collect or return_to"
    return None
