"""One connection of a client to a supervisor: it sends requests, and lets threads wait for answers."""

import contextlib
import socket
import threading
from collections import deque
from socket import SO_SNDBUF, SOL_SOCKET

from durable_bus import errors
from durable_bus.client.changes import Changes
from durable_bus.errors import DurableBusError, SupervisorLost, TimedOut, UsageError
from durable_bus.wire import protocol
from durable_bus.wire.decoding import decode_answer
from durable_bus.wire.framing import FRAME_BYTES_MAX, READ_BYTES, FrameReader, encode
from durable_bus.wire.ids import new_id
from durable_bus.wire.memory import keep_freed

__all__ = ["Connection"]

_UNREAD_BYTES = 1024 * 1024
"""The kernel holds twice as much for the supervisor, where it may: a chunk is sent whole while that commits
the one before. With what Linux gives otherwise a start of 200,000 items took 4 % longer.
"""


class Connection:
    """Says hello at once; `welcome` waits for the answer. Frames are answered in order, so others may follow
    before.

    Answers are kept for requests that somebody waits for, no others: a client may live for months.
    """

    def __init__(self, socket: socket.socket, hello: protocol.Hello) -> None:
        self._socket = socket
        socket.setsockopt(SOL_SOCKET, SO_SNDBUF, _UNREAD_BYTES)
        keep_freed()
        self._make_locks()
        self._hello = hello
        self._answers: dict[str, deque[protocol.Answer | protocol.Error]] = {}
        self._unended: set[str] = set()
        """Buffers whose end the supervisor is going to tell."""
        self.lost: DurableBusError | None = None
        """Why nothing more can be asked here; None as long as it can."""
        try:
            threading.Thread(target=self._read_forever, name="durable_bus client", daemon=True).start()
            with contextlib.suppress(SupervisorLost):
                self.send(hello)
        except BaseException:
            self.close()
            raise

    def _make_locks(self) -> None:
        self._send_lock = threading.Lock()
        self._lock = threading.RLock()
        self._changed = Changes(self._lock)

    def after_fork(self, lost: DurableBusError) -> None:
        """In a forked child: it is the parent's, and what a child asks here is refused with `lost`."""
        self._make_locks()
        self.lost = lost
        self._socket.close()

    def welcome(self, timeout_s: float | None = None) -> protocol.Welcome:
        """The answer to our hello. Raises what it was refused with, TimedOut or SupervisorLost."""
        try:
            answer = self.answer(self._hello.request, timeout_s)
        finally:
            self.forget(self._hello.request)
        assert isinstance(answer, protocol.Welcome)
        return answer

    def _read_forever(self) -> None:
        reader = FrameReader(decode_answer)
        lost: DurableBusError = SupervisorLost()
        try:
            while data := self._socket.recv(READ_BYTES):
                with self._lock:
                    for frame in reader.feed(data):
                        lost = self._take(frame.header) or lost
                    self._changed.notify_all()
        except (OSError, ValueError):
            pass  # the same as its end
        self._lose(lost)

    def _take(self, frame: protocol.ToClient) -> DurableBusError | None:
        """With the lock: file an answer. The error that this connection ends with, when the frame says so."""
        if isinstance(frame, protocol.Ended):
            self._unended.discard(frame.buffer_id)
        elif isinstance(frame, protocol.Fatal) or frame.request is None:
            return _error_of(frame)
        else:
            if frame.request in self._answers:
                self._answers[frame.request].append(frame)
            if isinstance(frame, protocol.Error) and frame.request == self._hello.request:
                self.lost = _error_of(frame)  # nothing else that we ask will be answered
        return None

    def send(self, request: protocol.Request, *bodies: bytes) -> None:
        """Send a request; whoever waits for its answers calls `forget` in the end. Raises SupervisorLost, and
        UsageError for what no frame can hold.
        """
        try:
            data = encode(request, *bodies)
        except UnicodeEncodeError:
            raise UsageError("half a surrogate pair cannot be part of a name, nor be sent") from None
        except (TypeError, OverflowError) as error:
            raise UsageError(f"it cannot be sent: {error}") from None
        if len(data) > FRAME_BYTES_MAX:
            raise errors.LimitExceeded(f"a frame of {len(data)} bytes is over the limit of {FRAME_BYTES_MAX}")
        with self._lock:
            if self.lost is not None:
                raise self.lost
            self._answers.setdefault(request.request, deque())
        try:
            with self._send_lock:
                if self.lost is not None:  # by who held the lock before
                    raise self.lost
                try:
                    self._socket.sendall(data)
                except OSError:
                    raise
                except BaseException:
                    # Ctrl-C, say, has cut a frame off, nobody knows where: what came next would be read as
                    # its rest. A daemon learns it when we close the connection, a supervisor of our own by
                    # SIGTERM (`Session.close`).
                    why = "a request was interrupted while it was sent: this connection is of no more use"
                    self._lose(SupervisorLost(why))
                    raise
        except OSError:
            with self._lock:
                self._changed.wait_for(lambda: self.lost is not None, timeout=5.0)
                # Also when the other end is there: a part of the frame may be, too.
                raise self._lose(SupervisorLost()) from None

    def _lose(self, why: DurableBusError) -> DurableBusError:
        """Nothing more can be asked here: because of this, or of what was known before, which it returns."""
        with self._lock:
            self.lost = self.lost or why
            self._changed.notify_all()
            return self.lost

    def say(self, request: protocol.Request) -> None:
        """Send what nobody waits for an answer to; silent when the supervisor is gone."""
        with contextlib.suppress(DurableBusError):
            self.send(request)
        self.forget(request.request)

    def answer(self, request_id: str, timeout_s: float | None = None) -> protocol.Answer:
        """Wait for the next answer to a request that was sent, however long `timeout_s` is. Raises what it
        was refused with, TimedOut or SupervisorLost.
        """
        if timeout_s is not None:
            timeout_s = min(timeout_s, threading.TIMEOUT_MAX)  # 292 years; a lock takes no more
        with self._lock:
            self._changed.wait_for(lambda: self._answers.get(request_id) or self.lost, timeout_s)
            answers = self._answers.get(request_id)
            if not answers:
                raise self.lost or TimedOut(f"no answer from the supervisor within {timeout_s} s")
            answer = answers.popleft()
        if isinstance(answer, protocol.Error):
            raise _error_of(answer)
        return answer

    def last_words(self, timeout_s: float) -> DurableBusError | None:
        """What this connection has ended with, of a supervisor that has ended; None: a child of it still
        holds its end of the socket.
        """
        with self._lock:
            self._changed.wait_for(lambda: self.lost is not None, timeout_s)
            return self.lost

    def has_answer(self, request_id: str) -> bool:
        with self._lock:
            return bool(self._answers.get(request_id))

    def forget(self, request_id: str) -> None:
        """Nobody waits for answers to this request any more."""
        with self._lock:
            self._answers.pop(request_id, None)

    def expect_end(self, buffer_id: str) -> None:
        """A start of this buffer is about to be sent: the supervisor will tell its end."""
        with self._lock:
            self._unended.add(buffer_id)

    def expect_no_end(self, buffer_id: str) -> None:
        """That start was refused."""
        with self._lock:
            self._unended.discard(buffer_id)

    def wait_for_end(self, buffer_id: str | None, timeout_s: float) -> None:
        """Wait until we are told that a buffer has ended, None: of none, or until this connection has."""
        if buffer_id is not None and buffer_id not in self._unended:
            self.expect_end(buffer_id)
            self.say(protocol.Watch(new_id(), buffer_id))
        with self._lock:
            self._changed.wait_for(
                lambda: self.lost is not None or (buffer_id is not None and buffer_id not in self._unended),
                timeout_s,
            )

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _error_of(frame: protocol.Error | protocol.Fatal) -> DurableBusError:
    kind = getattr(errors, frame.type, UsageError)
    if isinstance(frame, protocol.Error) and isinstance(kind, type) and issubclass(kind, errors.BufferError):
        return kind(frame.buffer_id or "unknown", frame.message)
    if kind is errors.JournalLocked and isinstance(frame, protocol.Fatal):
        error = errors.JournalLocked(frame.holder_pid)
        error.args = (frame.message,)
        return error
    if not (isinstance(kind, type) and issubclass(kind, DurableBusError)):
        kind = UsageError
    return kind(frame.message)
