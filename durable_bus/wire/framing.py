"""Frames: what travels at once over a pipe or a socket.

A frame is a four-byte big-endian length and that many bytes: parts, each with a four-byte length of its own.
The first is the header, a JSON object. Every other is a *body*: payloads in UTF-8, each ended by a NUL, which
no payload may hold (`payloads.packing`); so a body goes from SQLite to a worker without anybody in between
looking into it. Never pickle: whatever crosses a pipe as pickle is code execution for whoever can write to
it.
A payload of 316 characters costs 0.3 µs to pack and unpack this way, 3.3 in a JSON array.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator
from typing import Generic, NamedTuple, TypeVar

import msgspec

from durable_bus.errors import LimitExceeded

__all__ = [
    "FRAME_BYTES_MAX",
    "READ_BYTES",
    "Frame",
    "FrameReader",
    "Outgoing",
    "encode",
    "read_frame",
    "write_all",
]

FRAME_BYTES_MAX = 16 * 1024 * 1024
"""Longest frame a client may send. Between supervisor and workers frames may be longer."""

READ_BYTES = 64 * 1024
"""What one read asks for. More than 128 KiB malloc maps afresh each time: 17 µs a small frame, not 3."""
_LENGTH_BYTES = 4
_encode_header = msgspec.json.Encoder().encode


Header = TypeVar("Header")


class Frame(NamedTuple, Generic[Header]):
    """A received frame: its header and the bodies that follow it."""

    header: Header
    bodies: list[bytes]
    size_bytes: int


def encode(header: msgspec.Struct, *bodies: bytes) -> bytes:
    """The bytes of a frame."""
    parts = (_encode_header(header), *bodies)
    size_bytes = sum(map(len, parts)) + _LENGTH_BYTES * len(parts)
    pieces = [size_bytes.to_bytes(_LENGTH_BYTES, "big")]
    for part in parts:
        pieces += (len(part).to_bytes(_LENGTH_BYTES, "big"), part)
    return b"".join(pieces)


def _decode(data: bytes | memoryview, decode_header: Callable[[bytes], Header]) -> Frame[Header]:
    parts: list[bytes] = []
    start = 0
    while start < len(data):
        end = start + _LENGTH_BYTES + int.from_bytes(data[start : start + _LENGTH_BYTES], "big")
        if end > len(data):
            raise ValueError("a frame is shorter than its parts")
        parts.append(bytes(data[start + _LENGTH_BYTES : end]))
        start = end
    if not parts:
        raise ValueError("a frame without a header")
    return Frame(decode_header(parts[0]), parts[1:], len(data))


class FrameReader(Generic[Header]):
    """Puts frames together from whatever pieces a pipe or socket gives.

    `decode_header` is one of `protocol`'s: whoever reads knows who is speaking. `frame_bytes_max` is checked
    against the announced length, before anything is kept of the frame.
    """

    def __init__(self, decode_header: Callable[[bytes], Header], frame_bytes_max: int | None = None) -> None:
        self._buffer = bytearray()
        self._decode_header = decode_header
        self.frame_bytes_max = frame_bytes_max

    def feed(self, data: bytes) -> Generator[Frame[Header], None, None]:
        """Take `data` at once, and give the frames that are now whole. The rest stays here when fewer are
        taken, or none: `feed(b"")` and `next_frame` go on there.

        The frames raise LimitExceeded for one that is announced longer than allowed, ValueError for one that
        is not text or not JSON; the channel is of no use after either.
        """
        self._buffer += data
        return self._whole()

    def _whole(self) -> Generator[Frame[Header], None, None]:
        buffer = self._buffer
        start = 0
        try:
            while len(buffer) - start >= _LENGTH_BYTES:
                length = int.from_bytes(buffer[start : start + _LENGTH_BYTES], "big")
                if self.frame_bytes_max is not None and length > self.frame_bytes_max:
                    raise LimitExceeded(
                        f"a frame of {length} bytes is over the limit of {self.frame_bytes_max}"
                    )
                end = start + _LENGTH_BYTES + length
                if len(buffer) < end:
                    break
                with memoryview(buffer)[start + _LENGTH_BYTES : end] as data_of_frame:
                    frame = _decode(data_of_frame, self._decode_header)
                start = end
                yield frame
        finally:
            del buffer[:start]

    @property
    def pending_bytes(self) -> int:
        """How much has arrived that was not given yet."""
        return len(self._buffer)

    @property
    def has_frame(self) -> bool:
        """There is something to be given, a whole frame or the refusal of one that is too long."""
        length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
        too_long = self.frame_bytes_max is not None and length > self.frame_bytes_max
        return len(self._buffer) >= (_LENGTH_BYTES if too_long else _LENGTH_BYTES + length)

    def next_frame(self) -> Frame[Header]:
        """The first frame that is whole, when there is one (`has_frame`). Raises as `feed` does."""
        with contextlib.closing(self._whole()) as frames:
            return next(frames)


class Outgoing:
    """Frames that wait to be written to a descriptor that does not block: a blocking write to a worker that
    is itself writing to us would be a deadlock.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._parts: deque[memoryview] = deque()
        self.pending_bytes = 0

    def append(self, data: bytes) -> None:
        self._parts.append(memoryview(data))
        self.pending_bytes += len(data)

    def flush(self) -> bool:
        """Write what can be written now; True: all of it. Raises OSError when the other side is gone."""
        while self._parts:
            part = self._parts[0]
            try:
                written = os.write(self.fd, part)
            except BlockingIOError:
                return False
            self.pending_bytes -= written
            if written == len(part):
                self._parts.popleft()
            else:
                self._parts[0] = part[written:]
        return True


def _read_exactly(fd: int, count: int) -> bytes | None:
    data = os.read(fd, count)
    if len(data) == count or not data:
        return data or None
    parts = [data]
    missing = count - len(data)
    while missing:
        data = os.read(fd, missing)
        if not data:
            return None
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


def read_frame(fd: int, decode_header: Callable[[bytes], Header]) -> Frame[Header] | None:
    """Wait for the next frame on a blocking descriptor; None at its end, also when it ends inside a frame."""
    length = _read_exactly(fd, _LENGTH_BYTES)
    data = _read_exactly(fd, int.from_bytes(length, "big")) if length else None
    return _decode(data, decode_header) if data else None


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to a blocking descriptor. Raises OSError when the other side is gone."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
