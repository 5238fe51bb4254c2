"""A stream: a buffer whose items are put one by one, and run while more are put.

`put` writes an item down and returns; a thread sends what was written. It sends a small chunk only when all
that it has sent is on disk: so a lone item goes out at once, and many go out together.
"""

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from durable_bus.client.buffer import Buffer, deadline_after
from durable_bus.client.upload import BATCH_ITEMS, Upload, sized_chunks
from durable_bus.errors import BufferError, DurableBusError, TimedOut, UsageError
from durable_bus.payloads.values import Payload, ValueWriter

if TYPE_CHECKING:
    from durable_bus.client.client import Client

__all__ = ["AHEAD", "Stream"]

AHEAD = 10_000
"""How many items may be put that are not done yet."""
_SMALL_ITEMS = 1_000
_CHARS_MAX = 4 * 1024 * 1024
"""As much is written down at most before it is sent."""
_LAST_CHANCE_S = 5.0
"""So long what was put may take to become durable when the block is left with an exception."""


class Stream(Buffer):
    """A buffer that is open while its items are put. Made by `Client.stream`; used as a context manager, by
    any number of threads.
    """

    def __init__(
        self, client: "Client", upload: Upload, writer: ValueWriter, buffer_id: str, ahead: int
    ) -> None:
        """By `Client.stream` only. Raises what the start is refused with."""
        receiving = upload.begin()
        super().__init__(client, buffer_id, receiving.buffer_seq, existed=receiving.next_chunk > 0)
        self._upload = upload
        self._writer = writer
        self._ahead = ahead
        self.sealed = receiving.existing
        """No more items can be put."""
        self._changed = threading.Condition()
        self._written: list[Payload] = []
        """What waits to be sent."""
        self._chars = 0
        self._put = self._on_disk = receiving.received
        self._done = 0
        """Of the items, as many have a result, or more."""
        self._left = False
        self._error: BaseException | None = None
        self._sender: threading.Thread | None = None

    @property
    def received(self) -> int:
        """How many items are on disk, as far as this client has been told. A producer that comes back puts
        those behind them.
        """
        with self._changed:
            return self._on_disk

    def put(self, item: object, timeout: float | None = None) -> None:
        """Add an item, which `Client.start` would take. Waits while `ahead` items are not done; raises
        TimedOut after `timeout` seconds of that, None: never.

        This may return before the item is on disk; `flush` waits for that. Raises UsageError or LimitExceeded
        for an item that cannot be journaled, BufferError when the stream is sealed or was cancelled, and
        SupervisorLost: the item is not in the stream then. An error that an item before has met, such as a
        full disk, is raised, too.
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
        """False when there is no room. Ctrl-C may come anywhere: an item and its form are added at once."""
        with self._changed:
            self._refuse_failed()
            if self._chars > _CHARS_MAX or self._put - self._done >= self._ahead:
                return False
            self._written.append(payload)
            self._chars += len(payload[0])
            self._put += 1
            if self._sender is None:
                self._sender = threading.Thread(target=self._send_all, daemon=True)
                self._sender.start()
            elif len(self._written) == 1:
                self._changed.notify_all()
            return True

    def flush(self) -> None:
        """Wait until all that was put is on disk. Raises as `put` does."""
        with self._changed:
            put = self._put  # others may go on
            self._changed.wait_for(lambda: self._error or self._on_disk >= put)
            self._refuse_failed()

    def seal(self) -> None:
        """No more items come; leaving the block does this. When it returns, all items are on disk, and that
        there are no more. Raises BufferError when there are none: then the buffer is not in the journal.
        """
        if not self.sealed:
            self.flush()
            self._end_sender()
            self._upload.seal()
            self.sealed = True

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Seal it; after an exception leave it as it is, with what was put: a later `Client.stream` goes
        on.
        """
        if kind is None:
            try:
                self.seal()
            except BaseException:
                self._leave()
                raise
        else:
            with self._changed:
                self._changed.wait_for(lambda: self._error or self._on_disk >= self._put, _LAST_CHANCE_S)
            self._leave()

    def _leave(self) -> None:
        """Somebody else may go on with it."""
        if not self.sealed:
            self._end_sender(_LAST_CHANCE_S)
            self._upload.abandon()

    # Waiting

    def _wait_for_room(self, deadline_s: float | None) -> None:
        try:
            with self._changed:
                left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
                if not self._changed.wait_for(
                    lambda: self._error or self._left or self._chars <= _CHARS_MAX,
                    None if left_s is None else min(left_s, threading.TIMEOUT_MAX),
                ):
                    raise TimedOut
            self._client.wait_until(self._has_room, None, deadline_s)
        except TimedOut:
            not_done = self._put - self._done
            raise TimedOut(f"{not_done:,} items of {self.buffer_id} are not done yet") from None

    def _has_room(self) -> bool:
        """Also when nothing is sent any more: then there is something to raise."""
        _, succeeded, failed, ended = self._counts()
        if ended:
            raise BufferError(self.buffer_id, "it was cancelled")
        self._done = succeeded + failed
        return self._put - self._done < self._ahead or self._error is not None or self._left

    def _refuse_failed(self) -> None:
        if self._error is not None:
            raise self._error
        if self._left:
            raise UsageError(f"the stream {self.buffer_id} was left: nothing can be put any more")

    # The sender

    def _send_all(self) -> None:
        """In a thread of its own: send what was written down, until we are left."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._written or self._left)
                    if not self._written:
                        return
                    is_small = len(self._written) < _SMALL_ITEMS
                if is_small:
                    self._note_on_disk()
                self._send_some()
                with self._changed:
                    more = bool(self._written)
                if not more:
                    self._note_on_disk()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _send_some(self) -> None:
        with self._changed:
            some, self._written = self._written[:BATCH_ITEMS], self._written[BATCH_ITEMS:]
            self._chars = sum(len(text) for text, _ in self._written)
            self._changed.notify_all()
        for body, of_body in sized_chunks([text for text, _ in some], bytes([form for _, form in some])):
            self._upload.add(body, of_body)

    def _note_on_disk(self) -> None:
        on_disk = self._upload.acknowledged()
        with self._changed:
            self._on_disk = on_disk
            self._changed.notify_all()

    def _end_sender(self, timeout_s: float | None = None) -> None:
        with self._changed:
            self._left = True
            self._changed.notify_all()
        if self._sender is not None:
            self._sender.join(timeout_s)
