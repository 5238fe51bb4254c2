"""Writes messages, threads and mailboxes. Call every method inside `Journal.commit()`."""

import json
from typing import TYPE_CHECKING, NamedTuple

from durable_bus.payloads.forms import XML
from durable_bus.payloads.xml_reading import payload_kind

if TYPE_CHECKING:
    from durable_bus.journal.journal import Journal

__all__ = ["MessageRow", "MessageTable", "NewMessage"]

_FORGET_MESSAGES_MAX = 500


class MessageRow(NamedTuple):
    """A row of the table `message`; its columns are explained in `migrations/0001_journal.sql`."""

    message_seq: int
    message_id: str
    kind: str
    from_id: str
    to_id: str
    thread_id: str
    payload: str
    form: int
    buffer_seq: int | None
    due_at: int
    interruptions: int
    worker_pid: int | None
    created_commit: int
    delivered_commit: int | None
    settled_commit: int | None
    failed: int


class NewMessage(NamedTuple):
    """A message that is not in the journal yet."""

    from_id: str
    to_id: str
    thread_id: str
    payload: str
    form: int = XML
    settled: bool = False
    """There is nobody to deliver it to, it is the record."""
    failed: bool = False
    buffer_seq: int | None = None


class MessageTable:
    """Messages, from a name to a name on a thread; the threads; the names that have a mailbox."""

    def __init__(self, journal: "Journal") -> None:
        self._journal = journal
        self._statements = journal.statements
        self._write = journal.write

    def add(self, message_id: str, new: NewMessage) -> None:
        kind = payload_kind(new.payload, new.form)
        self._write("add_message", message_id=message_id, kind=kind, **new._asdict())

    def by_id(self, message_id: str) -> MessageRow | None:
        row = self._statements.one("message_by_id", message_id=message_id)
        return None if row is None else MessageRow(*row)

    def by_seq(self, message_seq: int) -> MessageRow:
        (row,) = self._statements.all("message_by_seq", message_seq=message_seq)
        return MessageRow(*row)

    def thread_of(self, message_seq: int) -> str | None:
        """None: there is no such message, or no more."""
        rows = self._statements.all("message_by_seq", message_seq=message_seq)
        return MessageRow(*rows[0]).thread_id if rows else None

    def names_with_waiting(self) -> dict[str, int]:
        """The names that messages wait for, and how many; those that are not due yet count, too."""
        return dict(self._statements.all("names_with_waiting_messages"))

    def waiting(self, to_id: str, limit: int) -> list[MessageRow]:
        """Messages to a name that nobody has and that are due, oldest first."""
        now_ms = self._journal.now_ms
        rows = self._statements.all("waiting_messages", to_id=to_id, now_ms=now_ms, limit=limit)
        return [MessageRow(*row) for row in rows]

    def next_due_at(self, to_id: str) -> int | None:
        """When the next message to a name is due that is not yet, ms since the epoch."""
        value = self._statements.value("next_message_due_at", to_id=to_id, now_ms=self._journal.now_ms)
        return None if value is None else int(value)

    def deliver(self, message_seq: int, worker_pid: int | None) -> bool:
        """It is about to go to somebody. If we die before, the next start hands it out again."""
        return self._write("deliver_message", message_seq=message_seq, worker_pid=worker_pid) == 1

    def undeliver(self, message_seq: int, *, due_at: int = 0, interrupted: bool = False) -> None:
        """Whoever had it has it no more. It waits again, until `due_at` (ms since the epoch) at least."""
        self._write("undeliver_message", message_seq=message_seq, due_at=due_at, interrupted=interrupted)

    def settle(self, message_seq: int, *, failed: bool = False) -> bool:
        """Its handling has had its outcome. False when it had one before: nothing follows from this one."""
        return self._write("settle_message", message_seq=message_seq, failed=failed) == 1

    def redeliver(self, message_id: str) -> bool:
        """A settled message waits again, under the same id. False when there is none."""
        return self._write("redeliver_message", message_id=message_id) == 1

    def forget_ended(self, before_ms: int, after_seq: int) -> int | None:
        """Drop conversations that ended before a time: of a page of messages, in the order they were written,
        those on a client's thread on which nothing was settled later, nothing is unsettled, and no buffer was
        started that is not pruned. The thread goes with its last message.

        What to go on from; None when all older messages were looked at.
        """
        last_commit = self._journal.last_commit_before(before_ms)
        page = self._statements.all("messages_after", after_seq=after_seq, limit=_FORGET_MESSAGES_MAX)
        old = [message_seq for message_seq, created_commit in page if created_commit <= last_commit]
        if not old:
            return None
        span = {"after_seq": after_seq, "last_seq": old[-1]}
        ended = self._statements.all("ended_conversations", last_commit=last_commit, **span)
        if ended:
            thread_ids = json.dumps([thread_id for (thread_id,) in ended])
            for name in ("forget_messages_of_spent", "forget_message_failures", "forget_messages"):
                self._write(name, thread_ids=thread_ids, **span)
            self._write("forget_threads", thread_ids=thread_ids)
        return old[-1] if len(old) == _FORGET_MESSAGES_MAX else None

    def delivered(self) -> list[MessageRow]:
        """What somebody has."""
        return [MessageRow(*row) for row in self._statements.all("delivered_messages")]

    def chain(self, thread_id: str) -> str | None:
        """The JSON chain of a thread that has a row."""
        value = self._statements.value("thread_chain", thread_id=thread_id)
        return None if value is None else str(value)

    def count_on_thread(self, thread_id: str, at_most: int) -> int:
        """How many messages a thread has had, counted up to `at_most`."""
        return int(self._statements.value("messages_on_thread", thread_id=thread_id, at_most=at_most))

    def set_chain(self, chain: str, *thread_ids: str) -> None:
        rows = [(thread_id, chain, self._journal.ids.commit) for thread_id in thread_ids]
        self._statements.run_each("set_thread", rows)

    def add_mailbox(self, name: str) -> None:
        """Give this name a mailbox, unless it has one."""
        self._write("add_mailbox", name=name)

    def has_mailbox(self, name: str) -> bool:
        return self._statements.value("has_mailbox", name=name) is not None
