"""Frames: what travels at once over a pipe or a socket.

A frame is a four-byte big-endian length and that many bytes of UTF-8 text. Its first line is a JSON object,
the header; each further line is a JSON text of its own, a body. JSON never holds a raw line feed, so
splitting at them is enough, and a body can go from SQLite to a worker, or back, without anybody in between
looking into it. Never pickle: whatever crosses a pipe as pickle is code execution for whoever can write to
it.
"""

import json
import os
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from durable_bus.errors import LimitExceeded

__all__ = [
    "FRAME_BYTES_MAX",
    "Frame",
    "FrameReader",
    "Outgoing",
    "dump_json",
    "encode",
    "read_frame",
    "write_all",
]

FRAME_BYTES_MAX = 16 * 1024 * 1024
"""Longest frame a client may send. Frames between supervisor and workers hold several payloads and may be
longer.
"""

_LENGTH_BYTES = 4


class Frame(NamedTuple):
    """A received frame: its header and the JSON texts that follow it."""

    header: dict[str, Any]
    bodies: list[str]
    size_bytes: int


def dump_json(value: object) -> str:
    """Compact JSON that keeps every character as it is; raises UnicodeEncodeError later, at encode, for
    surrogates.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def encode(header: dict[str, Any], *bodies: str) -> bytes:
    """The bytes of a frame. Each body must be JSON text without a raw line feed, as every JSON writer gives
    it.
    """
    data = "\n".join((dump_json(header), *bodies)).encode()
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


def _decode(data: bytes) -> Frame:
    header_line, *bodies = data.decode().split("\n")
    header = json.loads(header_line)
    if not isinstance(header, dict):
        raise ValueError("a frame's header must be a JSON object")
    return Frame(header, bodies, len(data))


class FrameReader:
    """Puts frames together from whatever pieces a pipe or socket gives.

    `frame_bytes_max` is checked against the announced length, before anything is kept of the frame.
    """

    def __init__(self, frame_bytes_max: int | None = None) -> None:
        self._buffer = bytearray()
        self._frame_bytes_max = frame_bytes_max

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take `data` and give the frames that are now whole.

        Raises LimitExceeded for a frame that is announced longer than allowed, ValueError for one that is not
        text or not JSON; the channel is of no use after either.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _LENGTH_BYTES:
                length = int.from_bytes(buffer[start : start + _LENGTH_BYTES], "big")
                if self._frame_bytes_max is not None and length > self._frame_bytes_max:
                    raise LimitExceeded(
                        f"a frame of {length} bytes is over the limit of {self._frame_bytes_max}"
                    )
                end = start + _LENGTH_BYTES + length
                if len(buffer) < end:
                    break
                frame = _decode(bytes(memoryview(buffer)[start + _LENGTH_BYTES : end]))
                start = end
                yield frame
        finally:
            del buffer[:start]

    @property
    def pending_bytes(self) -> int:
        """How much of an unfinished frame has arrived."""
        return len(self._buffer)


class Outgoing:
    """Frames that wait to be written to a descriptor that does not block.

    Nobody here ever waits for the other side: a blocking write to a worker that is itself writing to us is a
    deadlock.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._parts: deque[memoryview] = deque()
        self.pending_bytes = 0

    def append(self, data: bytes) -> None:
        self._parts.append(memoryview(data))
        self.pending_bytes += len(data)

    def flush(self) -> bool:
        """Write what can be written now; True when nothing is left. Raises OSError when the other side is
        gone.
        """
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


def read_frame(fd: int) -> Frame | None:
    """Wait for the next frame on a blocking descriptor; None at its end, also when it ends inside a frame."""
    length = _read_exactly(fd, _LENGTH_BYTES)
    data = _read_exactly(fd, int.from_bytes(length, "big")) if length else None
    return _decode(data) if data else None


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to a blocking descriptor. Raises OSError when the other side is gone."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
