"""What a supervisor tells its clients, and what must be on disk when it does."""

from collections.abc import Callable
from typing import Any

from durable_bus.wire.protocol import Controlled, LimitSet, Message, Opened
from simulation.records import Content, Violation

__all__ = ["Told"]


class Told:
    """What clients were told. At that moment it is on disk, whole."""

    def __init__(self, query: Callable[..., list[tuple[Any, ...]]]) -> None:
        """`query` sees only what is committed."""
        self._query = query
        self.acknowledged: dict[str, Content] = {}
        """By buffer id: the supervisor has told somebody that it is on disk."""
        self.produced: dict[str, int] = {}
        """Of each stream, how many items its producers have sent at most."""
        self.streamed: dict[str, tuple[Content, int]] = {}
        """Of each stream, how many items a producer was told are on disk."""
        self.cancelling: set[str] = set()
        """Buffers that somebody has wanted to cancel."""
        self.messages: dict[str, str] = {}
        """By request id: the message that it has caused."""
        self.receivers: dict[str, tuple[int, str]] = {}
        """Which connection has which message, and in answer to which request."""

    def supervisor_died(self) -> None:
        """Nobody has a message any more."""
        self.receivers.clear()

    def opened(self, content: Content, opened: Opened) -> None:
        """A client is told that its buffer is accepted: all of it is on disk."""
        if self._has_ended_as_a_stream(content, opened):
            return
        self.is_on_disk(content)
        if opened.total != len(content.texts):
            raise Violation(f"{content.buffer_id} was acknowledged with a wrong total: {opened}")
        self.acknowledged[content.buffer_id] = content

    def ended_early(self, buffer_id: str) -> list[tuple[Any, ...]]:
        """How many items a stream has that has ended before it was sealed, not by a cancel; at most a row."""
        return self._query(
            "SELECT total FROM buffer WHERE buffer_id = ? AND sealed_commit IS NULL"
            " AND ended_how IN ('enough', 'max_failures', 'deadline')",
            buffer_id,
        )

    def _has_ended_as_a_stream(self, content: Content, opened: Opened) -> bool:
        """It has as many items as had come when it ended, and is never sealed."""
        rows = self.ended_early(content.buffer_id)
        if rows and rows != [(opened.total,)]:
            raise Violation(f"{content.buffer_id} was acknowledged with a wrong total: {opened}, not {rows}")
        return bool(rows)

    def limit_set(self, answer: LimitSet) -> None:
        """A limit is said to have been set by hand. (Another may have set it since, in the same commit.)"""
        sql = (
            "SELECT 1 FROM limit_change WHERE name = ? AND rate IS ? AND running IS ?"
            " AND cause IN ('hand', 'reset')"
        )
        if not self._query(sql, answer.name, answer.rate, answer.running):
            raise Violation(f"{answer} was said before its commit")

    def received(self, content: Content, request_id: str, next_chunk: int) -> None:
        """A client is told that its chunks are on disk, unless somebody cancels the buffer meanwhile."""
        rows = self._query(
            "SELECT next_chunk FROM buffer WHERE request_id = ? AND dropped_commit IS NULL", request_id
        )
        if (not rows or rows[0][0] < next_chunk) and content.buffer_id not in self.cancelling:
            raise Violation(f"chunks before {next_chunk} of {request_id} were acknowledged, not {rows}")

    def puts(self, buffer_id: str, count: int) -> None:
        """A producer sends a chunk of a stream, which ends behind so many items."""
        self.produced[buffer_id] = max(count, self.produced.get(buffer_id, 0))

    def put(self, content: Content, count: int) -> None:
        """A producer is told that so many items of its stream are on disk, whatever comes next."""
        known = self.streamed.get(content.buffer_id, (content, 0))[1]
        if count:
            self.streamed[content.buffer_id] = (content, max(count, known))
            self.stream_is_on_disk(content, count)

    def stream_is_on_disk(self, content: Content, count: int) -> None:
        """So many items at least, and all that are there are what the producers have sent, in order."""
        rows = self._query(
            "SELECT buffer_seq, received FROM buffer WHERE buffer_id = ? AND opened_commit IS NOT NULL",
            content.buffer_id,
        )
        if not rows or not count <= rows[0][1] <= self.produced[content.buffer_id]:
            raise Violation(f"{count} items of {content.buffer_id} were acknowledged, on disk is {rows}")
        given = [*zip(content.texts, content.forms, strict=True)][: rows[0][1]]
        if self._items(rows[0][0]) != given:
            raise Violation(f"the items of {content.buffer_id} on disk are not what its producers have sent")

    def has_sealed(self, content: Content, request_id: str) -> None:
        """A producer that comes back is told that there is nothing to do: it was this one that has sealed."""
        sql = "SELECT request_id FROM buffer WHERE buffer_id = ? AND sealed_commit IS NOT NULL"
        rows = self._query(sql, content.buffer_id)
        if rows != [(request_id,)] and not self.ended_early(content.buffer_id):
            raise Violation(f"{request_id} was told that it has sealed {content.buffer_id}, and {rows} has")

    def gone_on(self, content: Content, request_id: str) -> None:
        """A producer is told that another one has come between."""
        sql = "SELECT 1 FROM buffer WHERE buffer_id = ? AND opened_commit IS NOT NULL AND request_id <> ?"
        if not self._query(sql, content.buffer_id, request_id):
            raise Violation(f"{request_id} was told that another goes on with {content.buffer_id}")

    def ended(self, buffer_id: str) -> None:
        if not self._query(
            "SELECT 1 FROM buffer WHERE buffer_id = ? AND ended_commit IS NOT NULL", buffer_id
        ):
            raise Violation(f"{buffer_id} was said to have ended before the commit that says so")

    def sent(self, request_id: str, message_id: str) -> None:
        """A client is told that its message is on its way."""
        if not self._query("SELECT 1 FROM message WHERE message_id = ?", message_id):
            raise Violation(f"message {message_id} was acknowledged and is not on disk")
        if self.messages.setdefault(request_id, message_id) != message_id:
            raise Violation(f"request {request_id} was carried out twice")

    def message(self, connection_id: int, name: str, message: Message) -> None:
        """A message is given to a receiver: it is with nobody else, and nobody has settled it."""
        message_id = message.message_id
        rows = self._query(
            "SELECT to_id, delivered_commit IS NOT NULL, settled_commit FROM message WHERE message_id = ?",
            message_id,
        )
        if rows != [(name, 1, None)]:
            raise Violation(f"message {message_id} was given to {name}, on disk is {rows}")
        if message_id in self.receivers:
            raise Violation(f"message {message_id} was given to a second receiver")
        self.receivers[message_id] = (connection_id, message.request)

    def settled(self, message_id: str) -> None:
        if not self._query(
            "SELECT 1 FROM message WHERE message_id = ? AND settled_commit IS NOT NULL", message_id
        ):
            raise Violation(f"message {message_id} was said to be settled before the commit that says so")

    def controlled(self, verb: str, controlled: Controlled) -> None:
        """A buffer is said to be cancelled or paused: that is on disk. (It may have been resumed in the same
        commit.)
        """
        sql = {
            ("cancel", "cancelled"): "SELECT 1 FROM buffer WHERE buffer_id = ? AND ended_commit IS NOT NULL",
            ("pause", "open"): "SELECT 1 FROM pause JOIN buffer USING (buffer_seq) WHERE buffer_id = ?",
        }.get((verb, controlled.state))
        if sql is not None and not self._query(sql, controlled.buffer_id):
            raise Violation(f"{verb} was answered with {controlled} before its commit")

    def receiver_gone(self, connection_id: int) -> None:
        """What was with this receiver may be given to another."""
        gone = [one for one, (receiver, _) in self.receivers.items() if receiver == connection_id]
        for message_id in gone:
            del self.receivers[message_id]

    def receiver_interrupted(self, connection_id: int, request_id: str) -> None:
        """The same of what it was given in answer to this request: it has not taken it."""
        abandoned = [one for one, by in self.receivers.items() if by == (connection_id, request_id)]
        for message_id in abandoned:
            del self.receivers[message_id]

    def is_a_stream(self, content: Content) -> None:
        """A client that has all its items is told that the buffer is a stream."""
        sql = "SELECT 1 FROM buffer JOIN chunk USING (buffer_seq) WHERE buffer_id = ?"
        if not self._query(sql, content.buffer_id):
            raise Violation(f"{content.buffer_id} was said to be a stream, and is none")

    def used(self, content: Content) -> None:
        """A client is told that its buffer id is used with other content. Of a stream whose items came from
        several clients nobody knows whether they are others.
        """
        sql = "SELECT 1 FROM buffer WHERE buffer_id = ? AND opened_commit IS NOT NULL AND digest IS NULL"
        if self._query(sql, content.buffer_id):
            return
        try:
            self.is_on_disk(content)
        except Violation:
            if self._query(
                "SELECT 1 FROM buffer WHERE buffer_id = ? AND opened_commit IS NOT NULL", content.buffer_id
            ):
                return
        raise Violation(f"{content.buffer_id} was refused as used, and is not or is the same")

    def is_on_disk(self, content: Content) -> None:
        rows = self._query(
            "SELECT buffer_seq, target, collect, return_to, total FROM buffer"
            " WHERE buffer_id = ? AND sealed_commit IS NOT NULL AND dropped_commit IS NULL",
            content.buffer_id,
        )
        given = (content.target, content.collect, content.return_to, len(content.texts))
        if not rows or rows[0][1:] != given:
            raise Violation(f"{content.buffer_id} was acknowledged, and on disk is {rows}")
        if self._items(rows[0][0]) != list(zip(content.texts, content.forms, strict=True)):
            raise Violation(f"{content.buffer_id} was acknowledged, and its items on disk are others")

    def _items(self, buffer_seq: int) -> list[tuple[Any, ...]]:
        return self._query(
            "SELECT payload, form FROM item WHERE item_key BETWEEN ? << 32 AND (? << 32) + 4294967295"
            " ORDER BY item_key",
            *(buffer_seq,) * 2,
        )
