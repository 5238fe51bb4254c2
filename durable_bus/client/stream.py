"""A stream: a buffer whose items are put one by one, and run while more are put.

`put` writes an item down and returns; a thread sends what was written (`sender`).
"""

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from durable_bus.client.buffer import EARLY_ENDS, Buffer, deadline_after
from durable_bus.client.forks import when_forked
from durable_bus.client.sender import Sender
from durable_bus.client.upload import Upload, sized_chunks
from durable_bus.errors import BufferEnded, BufferError, DurableBusError, TimedOut, UsageError
from durable_bus.payloads.values import Payload, ValueWriter

if TYPE_CHECKING:
    from durable_bus.client.client import Client

__all__ = ["AHEAD", "Stream"]

AHEAD = 10_000
"""How many items may be put that are not done yet."""
_CHARS_MAX = 4 * 1024 * 1024
"""As much is written down at most before it is sent."""
_LAST_CHANCE_S = 5.0
"""So long what was put may take to become durable when the block is left with an exception."""


class Stream(Buffer):
    """A buffer that is open while its items are put. Made by `Client.stream`; used as a context manager, by
    any number of threads.
    """

    def __init__(self, client: "Client", upload: Upload, writer: ValueWriter, ahead: int) -> None:
        """By `Client.stream` only. Raises what the start is refused with."""
        receiving = upload.begin()
        super().__init__(client, upload.buffer_id, receiving.buffer_seq, existed=receiving.received > 0)
        self._upload = upload
        self._writer = writer
        self._ahead = ahead
        self.sealed = receiving.existing
        """No more items can be put."""
        self._sender = Sender(upload, self._chunks, receiving.received)
        self._lock = threading.Lock()
        self._put = receiving.received
        self._done = 0
        """Of the items, as many have a result, or more."""
        self._sent = receiving.received
        self._chars = self._chars_sent = 0
        self._left = False
        when_forked(self, Stream._take_lock_anew)

    def _take_lock_anew(self) -> None:
        """In a forked child, which can put nothing."""
        self._lock = threading.Lock()

    @property
    def received(self) -> int:
        """How many items are on disk, as far as this client has been told. A producer that comes back puts
        those behind them.
        """
        return self._sender.on_disk

    def put(self, item: object, timeout: float | None = None) -> None:
        """Add an item, which `Client.start` would take. Waits while `ahead` items are not done; raises
        TimedOut after `timeout` seconds of that, None: never.

        This may return before the item is on disk; `flush` waits for that. Raises UsageError or LimitExceeded
        for an item that cannot be journaled, BufferEnded when the stream has ended by its terms, another
        BufferError when it is sealed or was cancelled, and SupervisorLost: the item is not in the stream
        then. An error that an item before has met, such as a full disk, is raised, too.
        """
        if self.sealed:
            raise BufferError(self.buffer_id, "it is sealed: no more items can be put")
        try:
            payload = self._writer.item(item)
        except DurableBusError as error:
            raise type(error)(f"item {self._put}: {error}") from None
        deadline_s = deadline_after(timeout)
        while not self._add(payload):
            self._wait_for_room(deadline_s)

    def _add(self, payload: Payload) -> bool:
        """False when there is no room: who waits for it does so without the lock, and looks again."""
        with self._lock:
            self._refuse_left()
            if self._put - self._done >= self._ahead or not self._has_memory():
                return False
            self._sender.add(payload)
            self._put += 1
            self._chars += len(payload[0])
            return True

    def flush(self) -> None:
        """Wait until all that was put is on disk. Raises as `put` does."""
        if not self.sealed:
            self._refuse_left()
        self._flush()

    def _refuse_left(self) -> None:
        if self._left:
            raise UsageError(f"the stream {self.buffer_id} was left: nothing can be put any more")

    def _flush(self) -> None:
        put = self._put  # others may go on
        self._sender.wait_for(lambda: self._sender.on_disk >= put)

    def seal(self) -> None:
        """No more items come; leaving the block does this. When it returns, all items are on disk, and that
        there are no more; or that it has ended early, by its terms. Raises BufferError when there are none:
        then the buffer is not in the journal.
        """
        if not self.sealed:
            with self._lock:
                self._refuse_left()
                self._left = True
            try:
                self._flush()
                self._sender.close()
                self._upload.seal()
            except BufferEnded:
                self._sender.close()
            self.sealed = True

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Seal it; after an exception leave it with what was put: a later `Client.stream` goes on."""
        if kind is None:
            try:
                self.seal()
            except BaseException:
                self._leave()
                raise
        else:
            self._leave()

    def _leave(self) -> None:
        """What was put stays; somebody else may go on with it."""
        self._left = True
        if not self.sealed:
            self._sender.close(_LAST_CHANCE_S)
            self._upload.abandon()

    # Waiting

    def _wait_for_room(self, deadline_s: float | None) -> None:
        try:
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            if not self._sender.wait_for(lambda: self._left or self._has_memory(), left_s):
                raise TimedOut
            self._client.wait_until(self._has_room, None, deadline_s)
        except TimedOut:
            not_done = self._put - self._done
            raise TimedOut(f"{not_done:,} items of {self.buffer_id} are not done yet") from None

    def _has_memory(self) -> bool:
        return self._chars - self._chars_sent <= _CHARS_MAX

    def _has_room(self) -> bool:
        """Also when nothing is sent any more: then there is something to raise."""
        if self._sender.error is not None:
            raise self._sender.error
        _, succeeded, failed, ended = self._counts()
        if ended:
            how = self.status().ended_how
            if how in EARLY_ENDS:
                raise BufferEnded(self.buffer_id, f"it has ended ({how}): no more items can be put")
            raise BufferError(self.buffer_id, "it was cancelled")
        self._done = succeeded + failed
        return self._left or self._put - self._done < self._ahead

    def _chunks(self, payloads: list[Payload]) -> Iterator[tuple[bytes, bytes]]:
        """In the sender's thread."""
        texts = [text for text, _ in payloads]
        yield from sized_chunks(texts, bytes([form for _, form in payloads]), self._sent)
        self._sent += len(texts)
        self._chars_sent += sum(map(len, texts))
