"""One connection of a client to a supervisor: it sends frames, and lets threads wait for answers."""

import contextlib
import socket
import threading
from collections import OrderedDict, deque
from typing import Any

from durable_bus import __version__, errors
from durable_bus.errors import (
    BufferError,
    DurableBusError,
    JournalLocked,
    LimitExceeded,
    SupervisorLost,
    TimedOut,
    UsageError,
)
from durable_bus.wire.framing import FRAME_BYTES_MAX, READ_BYTES, Frame, FrameReader, encode
from durable_bus.wire.ids import new_id

__all__ = ["Link"]

_WATCHED_MAX = 200


class Link:
    """Says hello at once; `welcome` waits for the answer. Frames are answered in order, so others may follow
    before.

    Answers are kept for requests that somebody waits for, no others: a client may live for months.
    """

    def __init__(
        self, connection: socket.socket, *, name: str | None, needs_app: bool, journal: list[int] | None
    ) -> None:
        """`needs_app`: be greeted only when a worker has imported the app, and be refused when none can.
        `journal`: which file the supervisor must serve (`socket_file.journal_file`); None: it is our own.
        """
        self._connection = connection
        self._send_lock = threading.Lock()
        self.changed = threading.Condition()
        self._hello_id = new_id()
        self._answers: dict[str, deque[dict[str, Any]]] = {}
        self._watched: OrderedDict[str, bool] = OrderedDict()
        """Buffers whose end the supervisor tells, and whether it has. Too many: it is asked again."""
        self.lost: DurableBusError | None = None
        threading.Thread(target=self._read_forever, name="durable_bus client", daemon=True).start()
        with contextlib.suppress(SupervisorLost):
            self.send(
                {
                    "k": "hello",
                    "request": self._hello_id,
                    "version": __version__,
                    "name": name,
                    "needs_app": needs_app,
                    "journal": journal,
                }
            )

    def welcome(self, timeout_s: float | None = None) -> dict[str, Any]:
        """The answer to our hello. Raises what it was refused with, TimedOut or SupervisorLost."""
        try:
            return self.answer(self._hello_id, timeout_s)
        finally:
            self.forget(self._hello_id)

    def _read_forever(self) -> None:
        reader = FrameReader[Any]()
        lost: DurableBusError = SupervisorLost()
        try:
            while data := self._connection.recv(READ_BYTES):
                with self.changed:
                    for frame in reader.feed(data):
                        lost = self._take(frame) or lost
                    self.changed.notify_all()
        except (OSError, ValueError):
            pass  # the same as its end
        with self.changed:
            self.lost = self.lost or lost
            self.changed.notify_all()

    def _take(self, frame: Frame[Any]) -> DurableBusError | None:
        """With the lock: file an answer. The error that this connection ends with, when the frame says so."""
        header = frame.header
        request_id = header.get("request")
        error = error_of(header) if header["k"] in ("error", "fatal") else None
        if error is not None and request_id is None:
            return error
        if header["k"] == "ended":
            if header["buffer_id"] in self._watched:
                self._watched[header["buffer_id"]] = True
        elif request_id in self._answers:
            self._answers[request_id].append(header)
        if request_id == self._hello_id and error is not None:
            self.lost = error  # nothing else that we ask will be answered
        return None

    def send(self, header: dict[str, Any], *bodies: bytes) -> None:
        """Send a request; whoever waits for its answers calls `forget` in the end. Raises SupervisorLost, and
        UsageError for what no frame can hold.
        """
        try:
            data = encode(header, *bodies)
        except UnicodeEncodeError:
            raise UsageError("half a surrogate pair cannot be part of a name, nor be sent") from None
        except TypeError as error:
            raise UsageError(f"it cannot be sent: {error}") from None
        if len(data) > FRAME_BYTES_MAX:
            raise LimitExceeded(f"a frame of {len(data)} bytes is over the limit of {FRAME_BYTES_MAX}")
        with self.changed:
            if self.lost is not None:
                raise self.lost
            self._answers.setdefault(header["request"], deque())
        try:
            with self._send_lock:
                if self.lost is not None:  # by who held the lock before: see `_send_nothing_more`
                    raise self.lost
                self._send_whole(data)
        except OSError:
            self._raise_lost()

    def _send_whole(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError:
            raise
        except BaseException:
            self._send_nothing_more()
            raise

    def _send_nothing_more(self) -> None:
        """Ctrl-C, say, has cut a frame off, nobody knows where: what came next would be read as its rest.

        A daemon learns it when we close the connection, a supervisor of our own by SIGTERM: see
        `Contact.close`.
        """
        with self.changed:
            self.lost = self.lost or SupervisorLost(
                "a request was interrupted while it was sent: this connection is of no more use"
            )
            self.changed.notify_all()

    def say(self, header: dict[str, Any]) -> None:
        """Send what nobody waits for an answer to; silent when the supervisor is gone."""
        request_id = header.setdefault("request", new_id())
        with contextlib.suppress(DurableBusError):
            self.send(header)
        self.forget(request_id)

    def _raise_lost(self) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.lost is not None, timeout=5.0)
            raise self.lost or SupervisorLost()

    def answer(self, request_id: str, timeout_s: float | None = None) -> dict[str, Any]:
        """Wait for the next answer to a request that was sent, however long `timeout_s` is. Raises what it
        was refused with, TimedOut or SupervisorLost.
        """
        if timeout_s is not None:
            timeout_s = min(timeout_s, threading.TIMEOUT_MAX)  # 292 years; a lock takes no more
        with self.changed:
            self.changed.wait_for(lambda: self._answers.get(request_id) or self.lost, timeout_s)
            answers = self._answers.get(request_id)
            if not answers:
                raise self.lost or TimedOut(f"no answer from the supervisor within {timeout_s} s")
            header = answers.popleft()
        if header["k"] == "error":
            raise error_of(header)
        return header

    def last_words(self, timeout_s: float) -> DurableBusError | None:
        """What this connection has ended with, of a supervisor that has ended; None: a child of it still
        holds its end of the socket.
        """
        with self.changed:
            self.changed.wait_for(lambda: self.lost is not None, timeout_s)
            return self.lost

    def has_answer(self, request_id: str) -> bool:
        with self.changed:
            return bool(self._answers.get(request_id))

    def forget(self, request_id: str) -> None:
        """Nobody waits for answers to this request any more."""
        with self.changed:
            self._answers.pop(request_id, None)

    # Ends of buffers

    def watch(self, buffer_id: str, *, asked: bool = False) -> None:
        """Be told when a buffer ends; `asked`: the supervisor knows that already."""
        with self.changed:
            if buffer_id in self._watched:
                return
            self._watched[buffer_id] = False
            if len(self._watched) > _WATCHED_MAX:
                self._watched.popitem(last=False)
        if not asked:
            self.say({"k": "watch", "buffer_id": buffer_id})

    def says_ended(self, buffer_id: str | None) -> bool:
        """The buffer has ended, or nobody can tell any more."""
        return self.lost is not None or (buffer_id is not None and self._watched.get(buffer_id, False))

    def unwatch(self, buffer_id: str) -> None:
        with self.changed:
            self._watched.pop(buffer_id, None)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def error_of(header: dict[str, Any]) -> DurableBusError:
    """The exception that an error frame stands for."""
    message = str(header.get("message", ""))
    kind = getattr(errors, str(header.get("type")), UsageError)
    if kind is BufferError:
        return BufferError(header.get("buffer_id") or "unknown", message)
    if kind is JournalLocked:
        error = JournalLocked(header.get("holder_pid"))
        error.args = (message,)
        return error
    if not (isinstance(kind, type) and issubclass(kind, DurableBusError)):
        kind = UsageError
    return kind(message)
