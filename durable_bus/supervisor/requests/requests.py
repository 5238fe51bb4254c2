"""What clients may ask of the supervisor. Each answer is journaled with what it caused, and sent after the
commit.

A request carries an id made by its client. One whose answer was lost is simply sent again: it is answered
from the journal and not done twice.
"""

import contextlib
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from durable_bus.errors import (
    BufferError,
    DurableBusError,
    JournalError,
    JournalUnreachable,
    LimitExceeded,
    StorageFull,
    UsageError,
    VersionMismatch,
)
from durable_bus.payloads import xml
from durable_bus.payloads.packing import split
from durable_bus.supervisor.outbox import Outbox
from durable_bus.supervisor.outcomes.collector import Collector
from durable_bus.supervisor.outcomes.conversations import Conversations
from durable_bus.supervisor.outcomes.threads import Chain, ThreadRegistry
from durable_bus.supervisor.requests.control import Control
from durable_bus.supervisor.requests.mailboxes import Mailboxes
from durable_bus.supervisor.staged import Staged
from durable_bus.supervisor.workers.workforce import Deferred, Workforce
from durable_bus.wire.framing import Frame
from durable_bus.wire.request_fields import check_fields

if TYPE_CHECKING:
    from durable_bus.journal.buffers import BufferRow
    from durable_bus.journal.journal import Journal

__all__ = ["CHUNK_ITEMS_MAX", "ITEMS_MAX", "Requests", "Served"]

CHUNK_ITEMS_MAX = 10_000
ITEMS_MAX = 1 << 32
RECEIVING_TIMEOUT_MS = 10 * 60 * 1000
"""A buffer whose client has vanished is given up this long after its last chunk."""

_NO_ROOM = "no room on disk"
_ANSWERED_ONCE = ("send", "respond", "acknowledge", "cancel")
"""Requests whose answers are kept (`Journal.add_request`): done a second time they would do more, or fail."""
_WRITES_NOTHING = ("status", "stop", "stop_receiving")
"""Requests that change memory at most. A hello without a name is another."""


class Receiving(NamedTuple):
    """A start whose items are arriving."""

    request_id: str
    connection_id: int
    buffer_seq: int
    buffer_id: str
    target: str
    next_chunk: int
    received: int
    existing: bool = False
    """The buffer is there already, opened: its items are not looked at, the digest decides."""
    repeated: bool = False
    """By this very request, whose answer was lost."""


class Served(NamedTuple):
    """The journal that this supervisor serves: its path, and which file it is."""

    path: str
    file: list[int] | None


class Requests:
    """Answers clients' frames, inside a commit."""

    def __init__(
        self,
        journal: "Journal",
        collector: Collector,
        workforce: Workforce,
        conversations: Conversations,
        threads: ThreadRegistry,
        mailboxes: Mailboxes,
        control: Control,
        outbox: Outbox,
        version: str,
        served: Served,
        new_id: Callable[[], str],
    ) -> None:
        self._journal = journal
        self._collector = collector
        self._workforce = workforce
        self._conversations = conversations
        self._threads = threads
        self._mailboxes = mailboxes
        self._outbox = outbox
        self._version = version
        self._served = served
        self._new_id = new_id
        self.receiving: Staged[str, Receiving] = Staged()
        self.stop_asked = False
        self._greeted: set[int] = set()
        """Connections that have said hello and whose version is ours."""
        self._handlers: dict[str, Callable[[int, Frame[Any]], dict[str, Any] | None]] = {
            "hello": self._hello,
            "submit": self._submit,
            "start": self._start,
            "chunk": self._chunk,
            "open": self._open,
            "abandon": self._abandon,
            "watch": self._watch,
            "stop": self._stop,
            **mailboxes.handlers,
            **control.handlers,
        }

    def handle(self, connection_id: int, frame: Frame[Any]) -> None:
        """Do what a frame asks and queue its answer. Raises Deferred, after which nothing was changed."""
        if self._outbox.is_hanging_up(connection_id):
            return
        error = self._try(connection_id, frame, self._journal.savepoint)
        if error is not None:
            self._give_up(frame.header.get("request"))
            self.refuse(connection_id, frame, error)

    def handle_on_full_disk(self, connection_id: int, frame: Frame[Any]) -> bool:
        """Outside a commit, after one was refused for want of room: answer what needs none, refuse what does
        and can be asked for again. False: neither, the frame is to be kept until there is room.
        """
        kind = frame.header.get("k")
        if kind in ("abandon", "abandon_receiving"):
            return False  # nobody says it again
        if kind in ("submit", "start", "chunk", "open"):
            buffer_id = frame.header.get("buffer_id") or self._receives(frame.header.get("request"))
            if buffer_id is not None:  # else its start was refused, and the client told so
                self.refuse(connection_id, frame, BufferError(str(buffer_id), _NO_ROOM))
            return True
        is_hello = kind == "hello"
        if not (kind in _WRITES_NOTHING or (is_hello and frame.header.get("name") is None)):
            if is_hello:
                self._greeted.discard(connection_id)  # the refused commit may have greeted it
            self.refuse(connection_id, frame, StorageFull(_NO_ROOM))
            return True
        if connection_id not in self._greeted and not (is_hello or kind == "status"):
            return False  # its hello is kept: a client's frames are answered in order
        try:
            error = self._try(connection_id, frame, contextlib.nullcontext)
        except Deferred:
            return False
        if error is not None:
            self.refuse(connection_id, frame, error)
        return True

    def _receives(self, request_id: object) -> str | None:
        """The buffer whose items a request sends: a chunk does not say it again."""
        receiving = self.receiving.get(request_id) if isinstance(request_id, str) else None
        return None if receiving is None else receiving.buffer_id

    def _try(
        self,
        connection_id: int,
        frame: Frame[Any],
        savepoint: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> DurableBusError | None:
        """Do what a frame asks and queue its answer; or why that is refused. Raises Deferred."""
        kind = frame.header.get("k")
        handler = self._handlers.get(kind) if isinstance(kind, str) else None
        try:
            if handler is None:
                raise UsageError(f"unknown request {kind!r:.100}")
            if connection_id not in self._greeted and kind not in ("hello", "status"):
                raise UsageError("say hello first")
            check_fields(frame.header)
            if self._means_another(frame):
                message = f"the daemon at its socket serves another journal, {self._served.path}"
                return JournalUnreachable(message)
            with savepoint():
                answer = self._answered_before(frame) or handler(connection_id, frame)
        except JournalError:
            raise
        except DurableBusError as error:
            return error
        except (
            AttributeError,
            ArithmeticError,
            KeyError,
            RecursionError,
            TypeError,
            ValueError,
            sqlite3.OperationalError,
            sqlite3.IntegrityError,
            sqlite3.DataError,
            sqlite3.ProgrammingError,
            sqlite3.InterfaceError,
        ) as error:
            if isinstance(error, sqlite3.OperationalError) and "JSON" not in str(error):
                raise
            return UsageError(f"malformed {kind} request: {type(error).__name__}: {error}")
        if answer is not None:
            self._outbox.to_client(connection_id, {"request": frame.header.get("request"), **answer})
        return None

    def _answered_before(self, frame: Frame[Any]) -> dict[str, Any] | None:
        """What a request was answered that is repeated because its answer was lost; None: it is not one."""
        if frame.header["k"] not in _ANSWERED_ONCE:
            return None
        return self._journal.request_answer(frame.header["request"])

    def _means_another(self, frame: Frame[Any]) -> bool:
        """Two journals may have been given one socket: what is meant for the other must not come in here."""
        meant = frame.header.get("journal")
        return meant is not None and self._served.file is not None and meant != self._served.file

    def refuse(self, connection_id: int, frame: Frame[Any], error: DurableBusError) -> None:
        """Tell the client that its request was refused. Writes nothing, so that a full disk can be told too:
        the client of a start answers with `abandon`, which gives up what belongs to it.
        """
        request_id = frame.header.get("request")
        self._outbox.to_client(
            connection_id,
            {
                "k": "error",
                "request": request_id,
                "type": type(error).__name__,
                "message": error.error if isinstance(error, BufferError) else str(error),
                "buffer_id": getattr(error, "buffer_id", None),
            },
        )

    def closed(self, connection_id: int) -> None:
        self._greeted.discard(connection_id)
        for watchers in self._collector.watchers.values():
            watchers.discard(connection_id)
        for receiving in self.receiving.values():
            if receiving.connection_id == connection_id:
                self.receiving.pop(receiving.request_id)

    def give_up_stale(self, before_ms: int) -> None:
        """Drop buffers whose clients are gone and have not sent anything since a time."""
        current = {receiving.buffer_seq for receiving in self.receiving.values()}
        for buffer_seq, buffer_id in self._journal.buffers.stale(before_ms):
            if buffer_seq not in current:
                self._journal.buffers.drop(buffer_seq)
                self._outbox.log("buffer given up", buffer=buffer_id, reason="its client has vanished")

    # The requests

    def _hello(self, connection_id: int, frame: Frame[Any]) -> dict[str, Any]:
        version = frame.header.get("version")
        if version != self._version:
            raise VersionMismatch(
                f"the daemon is durable_bus {self._version}, this client is {version!r:.40}"
            )
        name = frame.header.get("name")
        listeners = self._workforce.listeners
        if frame.header.get("needs_app", True):
            listeners = self._workforce.require_app()
        elif listeners is None and name is not None:
            # A daemon greets also while its app cannot be imported; a name is checked by the last table
            # known.
            listeners = self._journal.last_listeners()
            if listeners is None and not self._workforce.is_settled:
                raise Deferred
        if name is not None:
            self._mailboxes.open(connection_id, name, listeners or {})
        self._greeted.add(connection_id)
        return {"k": "welcome", "listeners": msgspec.to_builtins(listeners or {})}

    def _submit(self, connection_id: int, frame: Frame[Any]) -> dict[str, Any] | None:
        """A start whose items fit into one chunk: all of it in one frame."""
        header = frame.header
        receiving = self._claim(connection_id, header)
        if receiving.existing:
            row: BufferRow = self._journal.buffers.by_seq(receiving.buffer_seq)
        else:
            items, total = self._items(frame, 0), header["total"]
            if receiving.buffer_seq or len(items) != total:
                raise BufferError(receiving.buffer_id, f"{len(items)} of {total} items arrived")
            row = self._journal.buffers.add_whole(
                items,
                header["form"],
                header["exceptions"],
                digest=header["digest"],
                **self._prepare(connection_id, header),
            )
        return self._opened(connection_id, receiving, header, row)

    def _start(self, connection_id: int, frame: Frame[Any]) -> dict[str, Any]:
        receiving = self._claim(connection_id, frame.header)
        if not receiving.buffer_seq:
            columns = self._prepare(connection_id, frame.header)
            receiving = receiving._replace(buffer_seq=self._journal.buffers.add(**columns))
        self.receiving[receiving.request_id] = receiving
        return {"k": "receiving", "next_chunk": receiving.next_chunk, "existing": receiving.existing}

    def _claim(self, connection_id: int, header: dict[str, Any]) -> Receiving:
        """What is there already of the buffer that a start wants: all, what this request has sent, or
        nothing, with `buffer_seq` 0; what a vanished client has left under its id is dropped.

        Raises BufferError for a start that cannot be carried out, and Deferred.
        """
        request_id, buffer_id, target = header["request"], header["buffer_id"], header["target"]
        nothing = Receiving(request_id, connection_id, 0, buffer_id, target, 0, 0)
        row = self._journal.buffers.by_id(buffer_id)
        opened = row is not None and row["opened_commit"] is not None
        if row is not None and opened and row["request_id"] == request_id:
            # Its acknowledgement was lost: it is given again, whatever today's app is like.
            return nothing._replace(buffer_seq=row["buffer_seq"], existing=True, repeated=True)
        self._workforce.require_app()
        self._conversations.check_start(buffer_id, buffer_id, target, header.get("return_to") or "")
        if row is None:
            return nothing
        if opened:
            return nothing._replace(buffer_seq=row["buffer_seq"], existing=True)
        if row["request_id"] == request_id:
            return nothing._replace(
                buffer_seq=row["buffer_seq"], next_chunk=row["next_chunk"], received=row["received"]
            )
        if any(other.buffer_seq == row["buffer_seq"] for other in self.receiving.values()):
            raise BufferError(buffer_id, "another client is sending its items just now")
        self._journal.buffers.drop(row["buffer_seq"])
        return nothing

    def _prepare(self, connection_id: int, header: dict[str, Any]) -> dict[str, Any]:
        """Begin the threads of a new buffer; the columns of its row.

        A client's buffer has a thread of its own, which begins with the client's name when it has one.
        """
        retried = self._retried(header)
        name = self._mailboxes.name_of(connection_id)
        starter_thread_id = self._new_id()
        thread_id = f"{starter_thread_id}/{header['buffer_id']}"
        self._threads.begin(Chain((name,) if name else ()), starter_thread_id, thread_id)
        return {
            "buffer_id": header["buffer_id"],
            "target": header["target"],
            "return_to": header.get("return_to") or name,
            "from_id": name,
            "thread_id": thread_id,
            "starter_thread_id": starter_thread_id,
            "collect": header["collect"],
            "request_id": header["request"],
            "retry_of": None if retried is None else retried["buffer_seq"],
        }

    def _retried(self, header: dict[str, Any]) -> "sqlite3.Row | None":
        """The ended buffer whose unsuccessful items these are, when the client says so."""
        if header.get("retry_of") is None:
            return None
        row = self._journal.buffers.by_id(header["retry_of"])
        if row is None or row["ended_commit"] is None:
            raise BufferError(header["buffer_id"], f"{header['retry_of']!r:.120} is no ended buffer")
        return row

    def _chunk(self, connection_id: int, frame: Frame[Any]) -> dict[str, Any] | None:
        header = frame.header
        receiving = self.receiving.get(header["request"])
        if receiving is None:
            return None  # refused before, and told so
        if receiving.existing or header["number"] < receiving.next_chunk:
            return {"k": "received", "next_chunk": receiving.next_chunk}
        if header["number"] > receiving.next_chunk:
            raise UsageError(f"chunk {header['number']} came before chunk {receiving.next_chunk}")
        items = self._items(frame, receiving.received)
        if not self._journal.buffers.add_chunk(
            receiving.buffer_seq,
            receiving.next_chunk,
            receiving.received,
            items,
            header["form"],
            header["exceptions"],
        ):
            raise BufferError(receiving.buffer_id, "it was cancelled while its items arrived")
        self.receiving[receiving.request_id] = receiving._replace(
            next_chunk=receiving.next_chunk + 1, received=receiving.received + len(items)
        )
        return {"k": "received", "next_chunk": receiving.next_chunk + 1}

    def _abandon(self, connection_id: int, frame: Frame[Any]) -> None:
        """Its client could not send all of it: nothing of it stays."""
        self._give_up(frame.header["request"])

    def _give_up(self, request_id: object) -> None:
        """A start that was refused or abandoned: its buffer goes, unless it was there before."""
        receiving = self.receiving.pop(request_id) if isinstance(request_id, str) else None
        if receiving is not None and not receiving.existing:
            self._journal.buffers.drop(receiving.buffer_seq)

    @staticmethod
    def _items(frame: Frame[Any], received: int) -> list[bytes]:
        """A chunk's items, in UTF-8. Raises UsageError or LimitExceeded for what `add_chunk` must not get."""
        header, (body,) = frame.header, frame.bodies
        count = header["count"]
        if not 0 < count <= CHUNK_ITEMS_MAX:
            raise UsageError(f"a chunk holds 1 to {CHUNK_ITEMS_MAX} items, not {count}")
        if received + count > ITEMS_MAX:
            raise LimitExceeded(f"a buffer holds at most {ITEMS_MAX} items")
        items = split(body)
        if len(items) != count:
            raise UsageError(f"a chunk said to hold {count} items holds {len(items)}")
        if header["form"] not in (0, 1) or not all(
            0 <= position < count for position in header["exceptions"]
        ):
            raise UsageError(f"a chunk's forms are not those of {count} items")
        if len(body) > xml.PAYLOAD_BYTES_MAX and max(map(len, items)) > xml.PAYLOAD_BYTES_MAX:
            raise LimitExceeded(f"an item is over the limit of {xml.PAYLOAD_BYTES_MAX} bytes")
        return items

    def _open(self, connection_id: int, frame: Frame[Any]) -> dict[str, Any] | None:
        header = frame.header
        receiving = self.receiving.get(header["request"])
        if receiving is None:
            return None  # refused before, and told so
        buffer_id, total = receiving.buffer_id, header["total"]
        if not receiving.existing:
            if total == 0:
                raise BufferError(buffer_id, "No items specified")
            if not self._journal.buffers.open(receiving.buffer_seq, total, header["digest"]):
                raise BufferError(buffer_id, f"{receiving.received} of {total} items arrived")
        row = self._journal.buffers.by_seq(receiving.buffer_seq)
        answer = self._opened(connection_id, receiving, header, row)
        self.receiving.pop(receiving.request_id)
        return answer

    def _opened(
        self, connection_id: int, receiving: Receiving, header: dict[str, Any], row: "BufferRow"
    ) -> dict[str, Any]:
        """The buffer is there, with all its items: the answer to its start. No answer is kept, unlike other
        requests': what the buffer's row says of its request is enough to give it again.
        """
        if not receiving.existing:
            self._collector.open(row)
            self._outbox.log(
                "buffer opened", buffer=receiving.buffer_id, target=receiving.target, items=row["total"]
            )
        elif not receiving.repeated:
            self._compare(connection_id, receiving, header, row)
        self._tell_end(connection_id, row)
        return {
            "k": "opened",
            "buffer_id": receiving.buffer_id,
            "buffer_seq": row["buffer_seq"],
            "total": row["total"],
            "existed": receiving.existing and not receiving.repeated,
        }

    def _compare(
        self, connection_id: int, receiving: Receiving, header: dict[str, Any], row: "BufferRow"
    ) -> None:
        """The same id with the same content is the buffer that exists; with any other it is refused. A
        handler's thread is content too: no client's start is on it.
        """
        buffer_id = receiving.buffer_id
        if row["from_id"] and not self._journal.messages.has_mailbox(row["from_id"]):
            raise BufferError(
                buffer_id, f"this id is used already, by a buffer that {row['from_id']} started"
            )
        if row["digest"] != header["digest"]:
            raise BufferError(buffer_id, "this id is used already, with other items")
        same = (row["target"], bool(row["collect"])) == (receiving.target, header["collect"])
        if not same or not self._returns_alike(connection_id, header, row):
            raise BufferError(buffer_id, "this id is used already, with other target, collect or return_to")

    def _returns_alike(self, connection_id: int, header: dict[str, Any], row: "BufferRow") -> bool:
        """A buffer returns to whom its start says, or else to the client that starts it. A retry says what
        the retried buffer does: when that says nobody, whoever asks again need not be who asked first.
        """
        said = header.get("return_to") or ""
        retried = self._retried(header)
        if retried is not None and retried["buffer_seq"] == row["retry_of"]:
            return bool(said == retried["return_to"])
        return bool((said or self._mailboxes.name_of(connection_id)) == row["return_to"])

    def _watch(self, connection_id: int, frame: Frame[Any]) -> dict[str, Any]:
        buffer_id = frame.header["buffer_id"]
        row = self._journal.buffers.by_id(buffer_id)
        if row is not None:
            self._tell_end(connection_id, row)
        return {"k": "watching", "buffer_id": buffer_id}

    def _tell_end(self, connection_id: int, row: "BufferRow") -> None:
        """Tell this connection when the buffer ends; at once when it has."""
        if row["ended_commit"] is not None:
            self._outbox.to_client(connection_id, {"k": "ended", "buffer_id": row["buffer_id"]})
        else:
            self._collector.watchers.setdefault(row["buffer_seq"], set()).add(connection_id)

    def _stop(self, connection_id: int, frame: Frame[Any]) -> None:
        self.stop_asked = True
