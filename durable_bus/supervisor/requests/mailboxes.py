"""Mailboxes: durable queues of named clients. A message is with one receiver at a time.

It waits again when that receiver's connection closes, when the receiver was interrupted before it took the
message, or when we die; it is settled by a response or an acknowledgement.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from durable_bus.errors import LimitExceeded, MessageRefused, NotFound, UnserialisableAnswer
from durable_bus.payloads.messages import Text, Xml, check_name
from durable_bus.payloads.xml import PAYLOAD_BYTES_MAX, dump, error_payload
from durable_bus.supervisor.outbox import Outbox
from durable_bus.supervisor.outcomes.conversations import Conversations
from durable_bus.supervisor.outcomes.threads import Chain, ThreadRegistry
from durable_bus.supervisor.scheduling.message_dispatcher import Post
from durable_bus.supervisor.staged import Staged
from durable_bus.wire.framing import Frame

if TYPE_CHECKING:
    import sqlite3

    from durable_bus.journal.journal import Journal

__all__ = ["Mailboxes"]


class Mailboxes:
    """Answers `send`, `receive`, `respond` and `acknowledge`, inside a commit."""

    def __init__(
        self,
        journal: "Journal",
        post: Post,
        threads: ThreadRegistry,
        conversations: Conversations,
        outbox: Outbox,
        new_id: Callable[[], str],
    ) -> None:
        self._journal = journal
        self._post = post
        self._threads = threads
        self._conversations = conversations
        self._outbox = outbox
        self._new_id = new_id
        self._names: Staged[int, str] = Staged()
        self._receivers: Staged[str, tuple[int, str]] = Staged()
        """Requests that wait for a message: connection and mailbox, by request id."""
        self._held: Staged[int, tuple[int, str]] = Staged()
        """Which connection a delivered message is with, and which request it answered, by `message_seq`."""
        self.handlers: dict[str, Callable[[int, Frame[Any]], dict[str, Any] | None]] = {
            "send": self._send,
            "receive": self._receive,
            "stop_receiving": self._stop_receiving,
            "abandon_receiving": self._abandon_receiving,
            "respond": self._respond,
            "acknowledge": self._acknowledge,
        }

    def name_of(self, connection_id: int) -> str:
        """The name of a client, "" when it has none."""
        return self._names.get(connection_id) or ""

    def open(self, connection_id: int, name: str, listeners: dict[str, Any]) -> None:
        """This connection speaks for `name`, whose mailbox is journaled from now on."""
        check_name(name, "client")
        if name in listeners:
            raise _is_a_listener(name)
        self._names[connection_id] = name
        self._journal.messages.add_mailbox(name)

    def give_up(self, listeners: dict[str, Any]) -> None:
        """The app has new listeners: a client that has the name of one is told what its hello would be told
        now, and its connection ends. What it had waits again, for the listener.
        """
        for connection_id in list(self._names.keys()):
            name = self._names[connection_id]
            if name in listeners:
                self._outbox.hang_up(connection_id, _is_a_listener(name))
                self._outbox.log("client refused", name=name, reason="it is a listener's name now")
                self.closed(connection_id)

    def closed(self, connection_id: int) -> None:
        """What this receiver had waits again."""
        for request_id in list(self._receivers.keys()):
            if self._receivers[request_id][0] == connection_id:
                self._receivers.pop(request_id)
        for message_seq in list(self._held.keys()):
            if self._held[message_seq][0] == connection_id:
                self._put_back(message_seq)
        self._names.pop(connection_id)

    def _put_back(self, message_seq: int) -> None:
        """Who had it has it no more."""
        self._held.pop(message_seq)
        row = self._journal.messages.by_seq(message_seq)
        if row["settled_commit"] is None:
            self._post.put_back(message_seq, row["to_id"])

    def plan(self) -> None:
        """Give waiting messages to receivers that wait for them."""
        for request_id in list(self._receivers.keys()):
            connection_id, name = self._receivers[request_id]
            if name not in self._post.waiting_names:
                continue
            rows = self._journal.messages.waiting(name, 1)
            if not rows:
                self._post.found_none(name)
                continue
            row = rows[0]
            self._journal.messages.deliver(row["message_seq"], None)
            self._held[row["message_seq"]] = (connection_id, request_id)
            self._receivers.pop(request_id)
            self._outbox.to_client(connection_id, {"request": request_id, "k": "message", **_told(row)})

    def commit(self) -> None:
        for staged in (self._names, self._receivers, self._held):
            staged.commit()

    def rollback(self) -> None:
        for staged in (self._names, self._receivers, self._held):
            staged.rollback()

    # The requests

    def _own_name(self, connection_id: int) -> str:
        name = self.name_of(connection_id)
        if not name:
            raise MessageRefused("a client needs a name for this: Client(journal, name=…)")
        return name

    @staticmethod
    def _payload(header: dict[str, Any]) -> tuple[str, bool]:
        payload, is_xml = header["payload"], header["is_xml"]
        if len(payload.encode()) > PAYLOAD_BYTES_MAX:
            raise LimitExceeded(f"a payload is over the limit of {PAYLOAD_BYTES_MAX} bytes")
        return payload, is_xml

    def _send(self, connection_id: int, frame: Frame[Any]) -> dict[str, Any]:
        """A message on a new thread."""
        name = self._own_name(connection_id)
        to_id = frame.header["to"]
        payload, is_xml = self._payload(frame.header)
        self._conversations.require_app()
        if not self._conversations.is_known(to_id):
            raise MessageRefused(f"unknown name {to_id!r:.120}: neither a listener nor a mailbox")
        thread_id, message_id = self._new_id(), self._new_id()
        self._threads.set(thread_id, Chain((name, to_id)))
        self._post.add(
            message_id=message_id,
            from_id=name,
            to_id=to_id,
            thread_id=thread_id,
            payload=payload,
            is_xml=is_xml,
        )
        answer = {"k": "sent", "message_id": message_id, "thread_id": thread_id}
        self._journal.add_request(frame.header["request"], answer)
        return answer

    def _receive(self, connection_id: int, frame: Frame[Any]) -> None:
        """Answered by `plan`, in this commit when a message waits, else when one comes."""
        self._receivers[frame.header["request"]] = (connection_id, self._own_name(connection_id))

    def _stop_receiving(self, connection_id: int, frame: Frame[Any]) -> dict[str, Any] | None:
        """Its receiver's time is up. A message that went out just before is answered already and stands."""
        if self._receivers.pop(frame.header["request"]) is None:
            return None
        return {"k": "nothing"}

    def _abandon_receiving(self, connection_id: int, frame: Frame[Any]) -> None:
        """Its receiver was interrupted, and takes no answer any more: a message that is on its way waits
        again.
        """
        request_id = frame.header["request"]
        self._receivers.pop(request_id)
        for message_seq in list(self._held.keys()):
            if self._held[message_seq] == (connection_id, request_id):
                self._put_back(message_seq)

    def _respond(self, connection_id: int, frame: Frame[Any]) -> dict[str, Any]:
        payload, is_xml = self._payload(frame.header)
        return self._settle(connection_id, frame, (payload, is_xml, frame.header["success"]))

    def _acknowledge(self, connection_id: int, frame: Frame[Any]) -> dict[str, Any]:
        return self._settle(connection_id, frame, None)

    def _settle(
        self, connection_id: int, frame: Frame[Any], response: tuple[str, bool, bool] | None
    ) -> dict[str, Any]:
        """`response`: its payload, whether that is XML, and whether it is a success."""
        name = self._own_name(connection_id)
        message_id = frame.header["message_id"]
        row = self._journal.messages.by_id(message_id)
        if row is None or row["to_id"] != name:
            raise NotFound(f"no message {message_id!r:.120} to {name}")
        if not self._journal.messages.settle(row["message_seq"]):  # first: the chain says nothing of it then
            raise MessageRefused(f"message {message_id} was settled before")
        thread_id = row["thread_id"]
        chain = self._threads.lookup(thread_id) or Chain()
        if response is not None and len(chain.hops) < 2:
            raise MessageRefused("nobody is waiting for a response on this thread: acknowledge the message")
        self._held.pop(row["message_seq"])
        if response is not None:
            self._answer(name, row, *response)
        elif chain.last == name:
            payload = error_payload("acknowledged", f"{name} acknowledged the message without responding")
            # Between clients an acknowledgement is the ordinary end of a message, as None is of a listener's:
            # only an item must have a result all the same.
            self._conversations.end(thread_id, payload, is_xml=True, success=False, tell_client=False)
        answer = {"k": "settled", "message_id": message_id}
        self._journal.add_request(frame.header["request"], answer)
        return answer

    def _answer(self, name: str, row: "sqlite3.Row", payload: str, is_xml: bool, success: bool) -> None:
        """Carry a response on. Our clients have checked theirs; one that came unchecked all the same fails as
        a listener's would, for what is recorded on an item must be able to stand in a results document.
        """
        thread_id = row["thread_id"]
        try:
            payload, is_xml = dump(Xml(payload) if is_xml else Text(payload))
        except UnserialisableAnswer as error:
            self._journal.work.record_failure(
                message_seq=row["message_seq"], attempt=1, kind=error.kind, message=str(error)
            )
            refusal = error_payload(error.kind, str(error))
            self._conversations.end(thread_id, refusal, is_xml=True, success=False)
        else:
            self._conversations.respond(name, thread_id, payload, is_xml=is_xml, success=success)


def _is_a_listener(name: str) -> MessageRefused:
    return MessageRefused(f"{name} is a listener of the app: choose another name for the client")


def _told(row: "sqlite3.Row") -> dict[str, Any]:
    """A message as its receiver is told of it."""
    return {
        "message_id": row["message_id"],
        "kind": row["kind"],
        "from_id": row["from_id"],
        "thread_id": row["thread_id"],
        "payload": row["payload"],
        "is_xml": bool(row["is_xml"]),
        "completes": row["buffer_seq"] if row["kind"] == "BufferComplete" else None,
    }
