"""Messages on their way: written by whoever causes them, handed to workers ahead of all items, or kept in
mailboxes.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from durable_bus.payloads.packing import pack
from durable_bus.payloads.xml import payload_kind
from durable_bus.supervisor.scheduling.dispatcher import Dispatcher
from durable_bus.supervisor.scheduling.leases import Hand, InHand
from durable_bus.wire.framing import encode
from durable_bus.wire.protocol import WorkMessage

if TYPE_CHECKING:
    import sqlite3

    from durable_bus.journal.journal import Journal

__all__ = ["Post"]

_PAGE_MESSAGES = 200
INTERRUPTIONS_MAX = 2
"""After so many deaths near it, that nobody was charged with, a message goes to a worker that holds nothing
else.
"""


class Post:
    """Knows which names have messages waiting, and hands those of listeners to workers."""

    def __init__(self, journal: "Journal", dispatcher: Dispatcher, new_id: Callable[[], str]) -> None:
        self._journal = journal
        self._dispatcher = dispatcher
        self._new_id = new_id
        self.waiting_names: set[str] = set()
        """Names that may have messages waiting: too many cost a look; none is ever missing."""
        self._emptied: set[str] = set()
        """Names without messages waiting, as this commit has left them; it may yet be refused."""
        self.due_at: dict[str, int] = {}
        """When the next message to a name is due that waits for its next attempt, ms since the epoch."""

    def add(
        self,
        *,
        from_id: str,
        to_id: str,
        thread_id: str,
        payload: str,
        is_xml: bool = True,
        message_id: str | None = None,
        buffer_seq: int | None = None,
        settled: bool = False,
        failed: bool = False,
    ) -> None:
        """Write a message. `settled`: nobody will get it, it is the record."""
        self._journal.messages.add(
            message_id=message_id or self._new_id(),
            kind=payload_kind(payload, is_xml),
            from_id=from_id,
            to_id=to_id,
            thread_id=thread_id,
            payload=payload,
            is_xml=is_xml,
            buffer_seq=buffer_seq,
            settled=settled,
            failed=failed,
        )
        if not settled:
            self.waiting_names.add(to_id)

    def put_back(self, message_seq: int, to_id: str, *, due_at: int = 0, interrupted: bool = False) -> None:
        """Nobody has it any more: it waits again, until `due_at`."""
        self._journal.messages.undeliver(message_seq, due_at=due_at, interrupted=interrupted)
        self.waiting_names.add(to_id)

    def plan(self) -> list[tuple[int, bytes]]:
        """Journal which messages go to which workers next; the frames to send after the commit."""
        frames: list[tuple[int, bytes]] = []
        self._dispatcher.alone_listeners = set()
        for name in sorted(self.waiting_names):
            able = [hand for hand in self._dispatcher.hands.values() if name in (hand.listeners or {})]
            if not able:
                continue  # a mailbox, or a listener that today's app does not have
            rows = self._journal.messages.waiting(name, _PAGE_MESSAGES)
            for row in rows:
                alone = row["interruptions"] >= INTERRUPTIONS_MAX
                hand = self._freest(name, alone=alone)
                if hand is None:
                    if alone:
                        self._dispatcher.alone_listeners.add(name)
                    break
                frames.append((hand.worker_id, self._hand_out(hand, row)))
            else:
                if len(rows) < _PAGE_MESSAGES:
                    self.found_none(name)
                    self._note_due(name)
        return frames

    def found_none(self, name: str) -> None:
        """No message to this name waits any more, once this commit has happened."""
        self.waiting_names.discard(name)
        self._emptied.add(name)

    def commit(self) -> None:
        self._emptied.clear()

    def rollback(self) -> None:
        """What was handed out in this commit waits as before."""
        self.waiting_names |= self._emptied
        self._emptied.clear()

    def _note_due(self, name: str) -> None:
        due_at = self._journal.messages.next_due_at(name)
        if due_at is None:
            self.due_at.pop(name, None)
        else:
            self.due_at[name] = due_at

    def wake(self, now_ms: int) -> None:
        """Names whose next attempt has come due have messages waiting again."""
        for name, due_at in list(self.due_at.items()):
            if due_at <= now_ms:
                del self.due_at[name]
                self.waiting_names.add(name)

    def _freest(self, listener: str, *, alone: bool) -> Hand | None:
        """The worker that will come to a message first. Messages go ahead of items, so it need not be
        idle.
        """
        best: Hand | None = None
        for hand in self._dispatcher.hands.values():
            settings = (hand.listeners or {}).get(listener)
            if settings is None or hand.leaving or hand.withdrawn or hand.exclusive:
                continue
            if not self._dispatcher.room(hand):
                continue
            room = max(2, 2 * settings.concurrency) - hand.messages
            if room <= 0 or (alone and hand.unanswered):
                continue
            if best is None or hand.unanswered < best.unanswered:
                best = hand
        return best

    def _hand_out(self, hand: Hand, row: "sqlite3.Row") -> bytes:
        message_seq, alone = row["message_seq"], row["interruptions"] >= INTERRUPTIONS_MAX
        self._journal.messages.deliver(message_seq, hand.pid)
        attempt = self._journal.work.message_attempts(message_seq).total + 1
        self._dispatcher.hold(
            hand,
            InHand(
                dispatch_id=-message_seq,
                worker_id=hand.worker_id,
                buffer_seq=0,
                listener=row["to_id"],
                first=0,
                item_count=1,
                attempt=attempt,
                alone=alone,
                first_ordinal=hand.next_ordinal,
                message_seq=message_seq,
            ),
        )
        work = WorkMessage(
            dispatch=-message_seq,
            message_id=row["message_id"],
            thread=row["thread_id"],
            from_id=row["from_id"],
            listener=row["to_id"],
            attempt=attempt,
            ordinal=hand.next_ordinal,
            is_xml=bool(row["is_xml"]),
            completes=row["buffer_seq"] if row["kind"] == "BufferComplete" else None,
        )
        return encode(work, pack([row["payload"]]))
