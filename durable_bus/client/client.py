"""Clients: starting buffers and following them.

A client talks to a supervisor over a socket (`session.py`): its own (`embedded.py`), or a daemon's. Following
a buffer needs only the journal (`buffer.py`); the socket merely says sooner that it has ended.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from durable_bus.client.buffer import Buffer
from durable_bus.client.buffer_ids import check_buffer_id, next_retry_id, retry_id_of_some
from durable_bus.client.differences import first_difference
from durable_bus.client.forks import Lock, when_forked
from durable_bus.client.limits import Limit, LimitSetting, check_change, limits_of
from durable_bus.client.mailbox import Mailbox, ReceivedMessage
from durable_bus.client.retries import unsuccessful
from durable_bus.client.session import Session
from durable_bus.client.stream import AHEAD, Stream
from durable_bus.client.terms import amounts_of, terms_of
from durable_bus.client.upload import Upload
from durable_bus.errors import NotFound, OtherItems, UsageError
from durable_bus.journal.reader import JournalReader
from durable_bus.payloads.messages import check_name
from durable_bus.payloads.values import ValueWriter
from durable_bus.wire import protocol
from durable_bus.wire.ids import new_id
from durable_bus.wire.parts import Terms
from durable_bus.wire.spawning import refuse_inside_handler

__all__ = ["Buffer", "Client"]


class Client:
    """A way into one journal's supervisor.

    `Client("journal.db")` talks to the daemon that serves it; `bus.running(...)` gives one that has a
    supervisor of its own. Threads may share one.

    A request that the end of a daemon has interrupted is sent again to the next one, under the same id, and
    is done once. SupervisorLost says that none has come back within 60 s, or that a supervisor of its own has
    ended. StorageFull says that there is no room on disk; nothing of the request is in the journal then.

    In a forked process a daemon's client connects anew when it is asked for something. One with a supervisor
    of its own can read results there, and raises UsageError for anything else. The parent's goes on.
    """

    def __init__(
        self,
        journal: str | os.PathLike[str] = "journal.db",
        *,
        name: str | None = None,
        _session: Session | None = None,
    ) -> None:
        """`journal`: the path of its file. `name`: under which the client has a mailbox, which is in the
        journal from now on; None: it can neither send nor receive. `_session`: with a supervisor of its own.

        Raises JournalUnreachable when no daemon serves the journal; UsageError for a name that no client may
        have, MessageRefused for a listener's; VersionMismatch; LimitExceeded when the daemon has too many
        clients; InsideHandler in a handler of the same journal.
        """
        path = Path(journal)
        if _session is None:
            refuse_inside_handler(path)
            if name is not None:
                check_name(name, "client")
            _session = Session.with_daemon(path, name)
        self.journal = path
        """As it was given, for messages."""
        self.name = name
        """Under which it has a mailbox; None: it has none."""
        self.listeners: dict[str, dict[str, Any]] = msgspec.json.decode(
            msgspec.json.encode(_session.listeners)
        )
        """The table of listeners as far as the supervisor knew it when it greeted us."""
        self._session = _session
        self._writer = ValueWriter(_session.forms)
        self._mailbox = Mailbox(_session, name, self._writer)
        self._reader: JournalReader | None = None
        self._parents_reader: JournalReader | None = None
        self._closed = False
        self._reader_lock = threading.Lock()
        when_forked(self, Client._after_fork, Client._locks)

    @property
    def supervisor_pid(self) -> int | None:
        """The pid of the supervisor that was started for this client; None for a daemon's client."""
        return self._session.process.pid if self._session.process else None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, *, at_once: bool = False) -> None:
        """Leave. A supervisor of our own finishes what runs, gives the rest back, and ends; `at_once`: it is
        killed. The journal has every result that was recorded; all else is handed out at the next start.

        Raises StorageFailed, or another JournalError, when it has ended with that instead.
        """
        try:
            self._session.close(at_once=at_once)
        finally:
            with self._reader_lock:
                self._closed = True
                reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()

    def _locks(self) -> Iterator[Lock]:
        yield self._reader_lock
        if self._reader is not None:
            yield self._reader.lock

    def _after_fork(self) -> None:
        """In a forked child, whose copies of clients work like this: see `Client`."""
        self._session.after_fork()
        self._reader_lock = threading.Lock()
        self._parents_reader, self._reader = self._reader or self._parents_reader, None

    def reader(self) -> JournalReader:
        """The journal, read-only; also when we are closed."""
        with self._reader_lock:
            if self._parents_reader is not None:
                self._parents_reader.close_parents()
                self._parents_reader = None
            if self._reader is None:
                self._reader = JournalReader(self._session.path)
                if self._closed:  # nobody will close us again
                    weakref.finalize(self, self._reader.close)
            return self._reader

    def start(
        self,
        target: str,
        items: Iterable[object],
        *,
        buffer_id: str | None = None,
        collect: bool = True,
        return_to: str | None = None,
        priority: int = 0,
        not_before: datetime | float | None = None,
        deadline: float | None = None,
        enough: int | None = None,
        max_failures: int | None = None,
        budget: Mapping[str, float] | None = None,
    ) -> Buffer:
        """Fan `items` out to the listener `target`; returns when all of them are on disk.

        `items`: any iterable of str, Text, Xml, elements or dataclasses; it is streamed. The same `buffer_id`
        with the same content gives the buffer that exists. `collect`: whether a BufferComplete follows.
        `return_to`: the listener or mailbox that gets it; None: this client's, if it has a name.

        The terms are no part of the identity: those of the first call hold. `priority`: from -10 to 10, what
        is higher goes first. `not_before`: nothing starts before; a datetime, local where it has no zone, or
        seconds since the epoch. It ends as it is, and what has no result is missing: `deadline` seconds after
        its start; when `enough` items have succeeded; when `max_failures` have failed. `budget`: what its
        handlers may spend, such as `{"usd": 5}`; when that is spent it is paused, until `resume`.

        Raises BufferError when the start is refused (unknown target, no items, the id used with other
        content), UsageError or LimitExceeded for an item that cannot be journaled; nothing of the buffer is
        in the journal then.
        """
        chosen = buffer_id if buffer_id is not None else new_id()
        check_buffer_id(chosen)
        terms = terms_of(
            priority=priority,
            not_before=not_before,
            deadline=deadline,
            enough=enough,
            max_failures=max_failures,
            budget=budget,
        )
        start = protocol.Start(new_id(), chosen, target, collect, return_to or "", terms=terms)
        return self._start(start, items)

    def stream(
        self,
        target: str,
        *,
        buffer_id: str,
        ahead: int = AHEAD,
        collect: bool = True,
        return_to: str | None = None,
        priority: int = 0,
        not_before: datetime | float | None = None,
        deadline: float | None = None,
        enough: int | None = None,
        max_failures: int | None = None,
        budget: Mapping[str, float] | None = None,
    ) -> Stream:
        """A buffer whose items are put one by one, and handed out as they come:
        `with client.stream("ask", buffer_id="monday") as buffer: buffer.put(item)`.

        Leaving the block seals it: no more items come. Leaving it with an exception, or dying, leaves it open
        with what has come; the same call goes on behind `buffer.received` items, by one producer at a time.
        Its BufferComplete comes with the last result, or when it is sealed, whichever is later. Until it is
        sealed it never ends, but by `cancel` or, early, by its terms: `put` raises BufferEnded then. `ahead`:
        `put` waits while so many items are not done. All else is as for `start`.

        Raises BufferError when another client puts items into it just now, when it was cancelled, and when
        the id is used with another target, collect or return_to. Of one that is sealed already, `sealed` is
        true and nothing can be put.
        """
        check_buffer_id(buffer_id)
        if not isinstance(ahead, int) or isinstance(ahead, bool) or ahead < 1:
            raise UsageError(f"ahead={ahead!r:.100} is not a whole number of at least 1")
        terms = terms_of(
            priority=priority,
            not_before=not_before,
            deadline=deadline,
            enough=enough,
            max_failures=max_failures,
            budget=budget,
        )
        upload = self.stream_upload(
            target, buffer_id, collect=collect, return_to=return_to or "", terms=terms
        )
        return Stream(self, upload, self._writer, ahead)

    def stream_upload(
        self,
        target: str,
        buffer_id: str,
        *,
        collect: bool = True,
        return_to: str = "",
        terms: Terms | None = None,
    ) -> Upload:
        """For a stream that nobody else puts items into: its `begin` comes next."""
        start = protocol.Start(new_id(), buffer_id, target, collect, return_to, stream=True, terms=terms)
        return Upload(self._session, start, self._writer)

    def _start(self, start: protocol.Start, items: Iterable[object]) -> Buffer:
        upload = Upload(self._session, start, self._writer)
        try:
            opened = upload.send(items)
        except OtherItems as error:
            difference = self._difference(start.buffer_id, items, upload)
            raise OtherItems(error.buffer_id, f"{error.error}{difference}") from None
        return Buffer(self, start.buffer_id, opened.buffer_seq, existed=opened.existed)

    def _difference(self, buffer_id: str, items: Iterable[object], upload: Upload) -> str:
        """Of what can be gone through once more all is compared, else its first chunk."""
        reader = self.reader()
        content = reader.content(buffer_id)
        if content is None or content.pruned:
            return ""
        recorded = reader.item_payloads(content.buffer_seq)
        if isinstance(items, Iterator):
            first, are_all = upload.first_chunk
            return first_difference(recorded, first, all_given=are_all)
        return first_difference(recorded, map(self._writer.item, items))

    def retry(self, buffer_id: str, *, indexes: Iterable[int] | None = None) -> Buffer:
        """Start the failed and missing items of an ended buffer again, in their order, as a buffer of their
        own: `BUFFER.retry1`, and what fails of that as `BUFFER.retry2` (see `next_retry_id` for an id of more
        than 93 characters). `indexes`: only these of them, as `BUFFER.retry-DIGEST`.

        Called twice, the second gives the buffer that exists. Raises NotFound, or BufferError when the buffer
        has not ended, nothing of it is to be started again, some of `indexes` is not, or its items were
        pruned.
        """
        reader, some = self.reader(), None if indexes is None else frozenset(indexes)
        content = reader.content(buffer_id)
        if content is None:
            raise NotFound(f"no buffer {buffer_id!r} in {self.journal}")
        items = unsuccessful(reader, content, some)
        retry_id = next_retry_id(content) if some is None else retry_id_of_some(content, some)
        target, collect, return_to = content.target, content.collect, content.return_to
        start = protocol.Start(new_id(), retry_id, target, collect, return_to, retry_of=buffer_id)
        return self._start(start, items)

    def wait_until(self, done: Callable[[], bool], buffer_id: str | None, deadline_s: float | None) -> None:
        """See `Session.wait_until`."""
        self._session.wait_until(done, buffer_id, deadline_s)

    def send(self, to: str, payload: object) -> str:
        """Send a message to a listener or a mailbox, on a new thread; its message id.

        It is on disk when this returns. `payload`: str, Text, Xml, an element or a dataclass. Raises
        MessageRefused for an unknown name, or a client without a name; UsageError for what cannot be
        written, and for XML that is not one element; LimitExceeded for more than 8 MiB. Nothing of it is in
        the journal then.
        """
        return self._mailbox.send(to, payload)

    def receive(self, timeout: float | None = None) -> ReceivedMessage:
        """The next message to this client's name. Raises TimedOut after `timeout` seconds (None: never), and
        MessageRefused for a client without a name.

        It stays in the journal until `respond` or `acknowledge`, and waits again when this connection closes
        first. Interrupted, such as by Ctrl-C, this takes no message: one that was on its way waits again.
        """
        return self._mailbox.receive(timeout)

    def respond(self, message: ReceivedMessage | str, payload: object) -> None:
        """Answer a received message along its thread, which settles it. `payload` is what a handler may
        answer, and None the empty text. A Huh, SystemError or BufferError fails an item that waits for it, as
        a handler's does. A message's id stands for one to this client's name that nobody has received.

        Raises MessageRefused when it was settled before, or, told by its id, another client has it in hand;
        and UsageError for what a handler could not answer either, such as XML that is not one element. Then
        the message is as it was.
        """
        self._mailbox.respond(message, payload)

    def acknowledge(self, message: ReceivedMessage | str) -> None:
        """Settle a received message without a response: an item that waits for one has failed, and that is in
        the journal with it. A message's id is as for `respond`. Raises MessageRefused as that does.
        """
        self._mailbox.acknowledge(message)

    def cancel(self, buffer_id: str) -> str:
        """End a buffer as it is, and those that handlers of its items have started; its state now.

        Items without a result are *missing*, and its BufferComplete is in the journal when this returns. Of
        one that had ended nothing changes. One whose items still arrive is given up, `gone`, and its id is
        free again. Raises NotFound.
        """
        return self._session.ask(protocol.Cancel(new_id(), buffer_id), protocol.Controlled).state

    def pause(self, buffer_id: str) -> str:
        """Hand out nothing more of a buffer, also after restarts, until `resume`; its state. That it is
        paused is in the journal when this returns. What runs goes on, and its results are recorded.

        Raises NotFound, and BufferError while its items arrive.
        """
        return self._session.ask(protocol.Pause(new_id(), buffer_id), protocol.Controlled).state

    def resume(self, buffer_id: str, *, budget: Mapping[str, float] | None = None) -> str:
        """Go on with a paused buffer; its state. It is in the journal when this returns. Raises NotFound.

        `budget`: how much more it may spend, where its budget is spent; of a unit that is not said, as much
        again as at its start.
        """
        request = protocol.Resume(new_id(), buffer_id, amounts_of(budget))
        return self._session.ask(request, protocol.Controlled).state

    def set_limit(
        self, name: str, *, rate: str | None = None, running: int | None = None, reset: bool = False
    ) -> LimitSetting:
        """Change a limit of the app while it runs, also over restarts, until it is `reset`; how it is now.
        What is None stays as it is. The change is in the journal when this returns.

        Raises UsageError for a limit that the app does not have, or a rate that is none.
        """
        check_change(rate, running, reset)
        request = protocol.SetLimit(new_id(), name, rate, running, reset)
        answer = self._session.ask(request, protocol.LimitSet)
        return LimitSetting(answer.name, answer.rate, answer.running, answer.by_hand)

    def limits(self) -> dict[str, Limit]:
        """The limits of the app, by name, as they are in the journal now."""
        return limits_of(self.reader().limits())

    def prune(self, before_ms: int) -> int:
        """Drop items, results and messages of what ended before a time (ms since the epoch) with nothing
        unsettled: buffers, and conversations of clients with listeners and one another.

        How many buffers. They are marked as `pruned` when this returns; what is to be dropped of them goes
        little by little. Their rows stay, and their ids stay used.
        """
        buffers = 0
        after: list[int] | None = [0, 0]
        while after is not None:
            pruned = self._session.ask(protocol.Prune(new_id(), before_ms, after), protocol.Pruned)
            buffers += pruned.buffers
            after = pruned.next
        return buffers

    def supervisor_status(self, timeout: float | None = None) -> dict[str, Any]:
        """How the supervisor's workers are, as `durable-bus status --json` says it. Raises TimedOut when it
        does not answer within `timeout` seconds: it is busy or hung.
        """
        connection, ask = self._session.connection, protocol.AskStatus(new_id())
        try:
            connection.send(ask)
            return dict(msgspec.to_builtins(connection.answer(ask.request, timeout)))
        finally:
            connection.forget(ask.request)

    def buffer(self, buffer_id: str) -> Buffer:
        """A buffer that was started before, by anybody. Raises NotFound."""
        return Buffer(self, buffer_id, self.reader().buffer_seq(buffer_id), existed=True)
