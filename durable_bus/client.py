"""Clients: starting buffers and following them.

A client talks to a supervisor over a socket: its own (`running`), or a daemon's (`Client`). Following a
buffer needs only the journal, read-only, any number of times, by anyone; the socket merely says sooner that
it has ended.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from durable_bus import errors
from durable_bus.bus import INSIDE_HANDLER_VARIABLE, Bus, app_spec
from durable_bus.channel import FRAME_BYTES_MAX, Frame, FrameReader, dump_json, encode
from durable_bus.connections import connect_socket, socket_path
from durable_bus.errors import (
    BufferError,
    DurableBusError,
    InsideHandler,
    JournalLocked,
    JournalUnreachable,
    NotFound,
    SupervisorLost,
    TimedOut,
    UsageError,
)
from durable_bus.items import ItemsDigest, form_and_exceptions
from durable_bus.journal.reading import BufferContent, JournalReader
from durable_bus.messages import BufferComplete, Result
from durable_bus.results_document import results_document
from durable_bus.xml import PAYLOAD_BYTES_MAX, dump_item, guess_is_xml

__all__ = ["Buffer", "Client", "digest_items", "next_retry_id", "open_client", "running", "spawn_supervisor"]

CHUNK_BYTES_MAX = 1024 * 1024
RECONNECT_S = 60.0
"""How long a client waits for a daemon to come back."""
_BATCH_ITEMS = 4_000
_RECONNECT_EVERY_S = 0.1
_POLL_RESULTS_S = 0.02
_UNACKNOWLEDGED_CHUNKS_MAX = 8
_POLL_S = 0.25
_PACKAGE_PARENT = str(Path(__file__).resolve().parent.parent)


class _Link:
    """One connection to a supervisor: sends frames, and lets threads wait for answers."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._send_lock = threading.Lock()
        self.changed = threading.Condition()
        self._answers: dict[str, deque[dict[str, Any]]] = {}
        self.ended_buffers: set[str] = set()
        self.watched_buffers: set[str] = set()
        self.lost: DurableBusError | None = None
        threading.Thread(target=self._read_forever, name="durable_bus client", daemon=True).start()

    def _read_forever(self) -> None:
        reader = FrameReader()
        lost: DurableBusError = SupervisorLost()
        try:
            while data := self._connection.recv(256 * 1024):
                for frame in reader.feed(data):
                    lost = self._take(frame) or lost
        except (OSError, ValueError):
            pass  # the same as its end
        with self.changed:
            self.lost = lost
            self.changed.notify_all()

    def _take(self, frame: Frame) -> DurableBusError | None:
        header = frame.header
        if header["k"] == "fatal" or (header["k"] == "error" and header.get("request") is None):
            return error_of(header)
        with self.changed:
            if header["k"] == "ended":
                self.ended_buffers.add(header["buffer_id"])
            elif header["k"] != "watching":  # nobody waits for that one
                self._answers.setdefault(header["request"], deque()).append(header)
            self.changed.notify_all()
        return None

    def send(self, header: dict[str, Any], *bodies: str) -> None:
        """Raises SupervisorLost."""
        data = encode(header, *bodies)
        if len(data) > FRAME_BYTES_MAX:
            raise errors.LimitExceeded(f"a frame of {len(data)} bytes is over the limit of {FRAME_BYTES_MAX}")
        try:
            with self._send_lock:
                self._connection.sendall(data)
        except OSError:
            self._raise_lost()

    def _raise_lost(self) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.lost is not None, timeout=5.0)
            raise self.lost or SupervisorLost()

    def answer(self, request_id: str, timeout_s: float | None = None) -> dict[str, Any]:
        """Wait for the next answer to a request. Raises what it was refused with, TimedOut or
        SupervisorLost.
        """
        with self.changed:
            self.changed.wait_for(lambda: request_id in self._answers or self.lost, timeout_s)
            answers = self._answers.get(request_id)
            if answers is None:
                raise self.lost or TimedOut(f"no answer from the supervisor within {timeout_s} s")
            header = answers.popleft()
            if not answers:
                del self._answers[request_id]
        if header["k"] == "error":
            raise error_of(header)
        return header

    def says_ended(self, buffer_id: str | None) -> bool:
        return buffer_id in self.ended_buffers or self.lost is not None

    def has_answer(self, request_id: str) -> bool:
        with self.changed:
            return request_id in self._answers

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


class ReceivedMessage(NamedTuple):
    """A message from a mailbox. `kind` is its root element's name, "text" for text."""

    message_id: str
    kind: str
    from_id: str
    thread_id: str
    payload: str
    is_xml: bool


class Client:
    """A way into one journal's supervisor.

    `Client("journal.db")` talks to the daemon that serves it; `bus.running(...)` gives one that has a
    supervisor of its own. Raises JournalUnreachable when no daemon serves the journal.
    """

    def __init__(self, journal: str | os.PathLike[str] = "journal.db", *, name: str | None = None) -> None:
        path = Path(journal)
        _refuse_inside_handler(path)
        try:
            connection = connect_socket(socket_path(path))
        except OSError as error:
            raise JournalUnreachable(
                f"no daemon serves {path} ({error.strerror}); start one with: "
                f"durable-bus serve APP --journal {path}"
            ) from error
        self._open(path, connection, None, name)

    @classmethod
    def _embedded(
        cls,
        journal: Path,
        connection: socket.socket,
        process: "subprocess.Popen[bytes]",
        name: str | None,
    ) -> "Client":
        client = cls.__new__(cls)
        client._open(journal, connection, process, name)
        return client

    def _open(
        self,
        journal: Path,
        connection: socket.socket,
        process: "subprocess.Popen[bytes] | None",
        name: str | None,
    ) -> None:
        self.journal = journal
        self.name = name
        """Under which it has a mailbox; None: it has none."""
        self._process = process
        self._link = _Link(connection)
        self._reader: JournalReader | None = None
        self._reader_lock = threading.Lock()
        self.listeners: dict[str, Any] = {}
        try:
            self._greet(self._link)
        except BaseException:
            if self._process is not None:
                self._process.terminate()  # it answers no frame of ours before a worker has imported the app
            self.close()
            raise

    def _greet(self, link: _Link) -> None:
        from durable_bus import __version__

        request_id = secrets.token_hex(16)
        link.send({"k": "hello", "request": request_id, "version": __version__, "name": self.name})
        self.listeners = link.answer(request_id)["listeners"]

    @property
    def supervisor_pid(self) -> int | None:
        """The pid of the supervisor that was started for this client; None for a daemon's client."""
        return self._process.pid if self._process else None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave. A supervisor of our own finishes what runs, gives the rest back, and ends."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(DurableBusError):
                self._link.send({"k": "stop"})
            try:
                self._process.wait()
            except BaseException:
                self._process.kill()
                self._process.wait()
                raise
        self._link.close()
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def reader(self) -> JournalReader:
        """The journal, read-only."""
        with self._reader_lock:
            if self._reader is None:
                self._reader = JournalReader(self.journal)
            return self._reader

    def start(
        self,
        target: str,
        items: Iterable[object],
        *,
        buffer_id: str | None = None,
        collect: bool = True,
        return_to: str | None = None,
    ) -> "Buffer":
        """Fan `items` out to the listener `target`; returns when all of them are on disk.

        `items`: any iterable of str, Text, Xml, elements or dataclasses; it is streamed. The same `buffer_id`
        with the same content gives the buffer that exists. Raises BufferError when the start is refused
        (unknown target, no items, the id used with other content), UsageError or LimitExceeded for an item
        that cannot be journaled; nothing of the buffer is in the journal then.
        """
        chosen = buffer_id if buffer_id is not None else secrets.token_hex(16)
        errors_of_name = check_buffer_id(chosen)
        if errors_of_name:
            raise errors_of_name
        header = {
            "request": secrets.token_hex(16),
            "buffer_id": chosen,
            "target": target,
            "collect": collect,
            "return_to": return_to or "",
        }
        return self._start(header, items)

    def _start(self, header: dict[str, Any], items: Iterable[object]) -> "Buffer":
        answer = _Upload(self, header).send(items)
        return Buffer(self, header["buffer_id"], answer["buffer_seq"], existed=answer["existed"])

    def retry(self, buffer_id: str) -> "Buffer":
        """Start the failed and missing items of an ended buffer again, in their order, as a buffer of their
        own: `BUFFER.retry1`, and what fails of that as `BUFFER.retry2`.

        Called twice, the second gives the buffer that exists. Raises NotFound, or BufferError when the buffer
        has not ended or nothing of it is to be started again.
        """
        reader = self.reader()
        content = reader.content(buffer_id)
        if content is None:
            raise NotFound(f"no buffer {buffer_id!r} in {self.journal}")
        if not content.ended:
            raise BufferError(buffer_id, "it has not ended yet: what failed of it is not known")
        if content.succeeded == content.total:
            raise BufferError(buffer_id, "every item has succeeded: nothing to start again")
        header = {
            "request": secrets.token_hex(16),
            "buffer_id": next_retry_id(content),
            "target": content.target,
            "collect": content.collect,
            "return_to": content.return_to,
            "retry_of": buffer_id,
        }
        return self._start(header, reader.unsuccessful_items(content))

    def reconnect(self) -> None:
        """The daemon has gone: wait until one is back. Raises SupervisorLost at once for a supervisor of our
        own.
        """
        lost = self._link.lost
        if self._process is not None:
            raise lost or SupervisorLost()
        if lost is not None and not isinstance(lost, SupervisorLost):
            raise lost
        deadline_s = time.monotonic() + RECONNECT_S
        while True:
            try:
                self._connect_again()
                return
            except (OSError, SupervisorLost):
                if time.monotonic() > deadline_s:
                    raise SupervisorLost(f"no daemon has come back within {RECONNECT_S:g} s") from None
                time.sleep(_RECONNECT_EVERY_S)

    def _connect_again(self) -> None:
        """Raises OSError when nobody listens, SupervisorLost when who did has ended before it greeted us."""
        link = _Link(connect_socket(socket_path(self.journal)))
        try:
            self._greet(link)
        except BaseException:
            link.close()
            raise
        self._link.close()
        self._link = link

    def wait_until(self, done: Callable[[], bool], buffer_id: str | None, deadline_s: float | None) -> None:
        """Wait for a fact in the journal, woken early by the supervisor's word. Raises TimedOut or
        SupervisorLost.
        """
        while not done():
            link = self._link
            if link.lost is not None:
                self._lost_while_waiting(done)
                if done():
                    return
            elif buffer_id is not None and buffer_id not in link.watched_buffers:
                link.watched_buffers.add(buffer_id)
                with contextlib.suppress(SupervisorLost):
                    link.send({"k": "watch", "request": secrets.token_hex(16), "buffer_id": buffer_id})
            left_s = _POLL_S if buffer_id is not None else _POLL_RESULTS_S
            if deadline_s is not None:
                left_s = min(left_s, deadline_s - time.monotonic())
                if left_s <= 0:
                    raise TimedOut
            with link.changed:
                link.changed.wait_for(partial(link.says_ended, buffer_id), left_s)

    def _lost_while_waiting(self, done: Callable[[], bool]) -> None:
        if self._process is not None:
            if not done():
                raise self._link.lost or SupervisorLost()
            return
        try:
            self._connect_again()
        except (OSError, SupervisorLost):
            time.sleep(_RECONNECT_EVERY_S)

    def send(self, to: str, payload: object) -> str:
        """Send a message to a listener or a mailbox, on a new thread; its message id.

        It is on disk when this returns. `payload`: str, Text, Xml, an element or a dataclass. Raises
        MessageRefused for an unknown name, or a client without a name.
        """
        text, is_xml = dump_item(payload)
        answer = self._request({"k": "send", "to": to, "payload": text, "is_xml": is_xml})
        return str(answer["message_id"])

    def receive(self, timeout: float | None = None) -> ReceivedMessage:
        """The next message to this client's name. Raises TimedOut after `timeout` seconds.

        It stays in the journal until `respond` or `acknowledge`, and waits again when this connection closes
        first.
        """
        header = {"k": "receive", "request": secrets.token_hex(16)}
        deadline_s = None if timeout is None else time.monotonic() + timeout
        while True:
            link = self._link
            try:
                link.send(header)
                left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
                try:
                    answer = link.answer(header["request"], left_s)
                except TimedOut:
                    link.send({"k": "stop_receiving", "request": header["request"]})
                    answer = link.answer(header["request"])
                break
            except SupervisorLost:
                self.reconnect()
        if answer["k"] == "nothing":
            raise TimedOut(f"no message to {self.name} within {timeout} s")
        return ReceivedMessage(**{field: answer[field] for field in ReceivedMessage._fields})

    def respond(self, message: ReceivedMessage, payload: object) -> None:
        """Answer a received message along its thread, which settles it. Raises MessageRefused when it was
        before.
        """
        text, is_xml = dump_item(payload)
        self._request({"k": "respond", "message_id": message.message_id, "payload": text, "is_xml": is_xml})

    def acknowledge(self, message: ReceivedMessage) -> None:
        """Settle a received message without a response. Raises MessageRefused when it was settled before."""
        self._request({"k": "acknowledge", "message_id": message.message_id})

    def cancel(self, buffer_id: str) -> str:
        """End a buffer as it is, and those that handlers of its items have started; its state now.

        Items without a result are *missing*. Of one that had ended nothing changes. Raises NotFound.
        """
        return str(self._request({"k": "cancel", "buffer_id": buffer_id})["state"])

    def pause(self, buffer_id: str) -> str:
        """Hand out nothing more of a buffer, also after restarts, until `resume`; its state. Raises
        NotFound.
        """
        return str(self._request({"k": "pause", "buffer_id": buffer_id})["state"])

    def resume(self, buffer_id: str) -> str:
        """Go on with a paused buffer; its state. Raises NotFound."""
        return str(self._request({"k": "resume", "buffer_id": buffer_id})["state"])

    def prune(self, before_ms: int) -> int:
        """Drop items, results and messages of what ended before a time (ms since the epoch) with nothing
        unsettled.

        How many buffers; their rows stay, as `pruned`, and their ids stay used.
        """
        return int(self._request({"k": "prune", "before_ms": before_ms})["buffers"])

    def supervisor_status(self, timeout: float | None = None) -> dict[str, Any]:
        """How the supervisor's workers are. Raises TimedOut when it does not answer: it is busy or hung."""
        request_id = secrets.token_hex(16)
        self._link.send({"k": "status", "request": request_id})
        return self._link.answer(request_id, timeout)

    def _request(self, header: dict[str, Any]) -> dict[str, Any]:
        """One request and its answer; sent again, with the same id, when the daemon was restarted
        meanwhile.
        """
        header = {**header, "request": secrets.token_hex(16)}
        while True:
            link = self._link
            try:
                link.send(header)
                return link.answer(header["request"])
            except SupervisorLost:
                self.reconnect()

    def buffer(self, buffer_id: str) -> "Buffer":
        """A buffer that was started before, by anybody. Raises NotFound."""
        return Buffer(self, buffer_id, self.reader().facts(buffer_id).buffer_seq, existed=True)


def check_buffer_id(buffer_id: str) -> BufferError | None:
    from durable_bus.messages import check_name

    try:
        check_name(buffer_id, "buffer")
    except UsageError as error:
        return BufferError(str(buffer_id)[:100] or "unknown", str(error))
    return None


def next_retry_id(content: BufferContent) -> str:
    """What a retry of this buffer is called."""
    base, dot, number = content.buffer_id.rpartition(".retry")
    if content.is_retry and dot and number.isdecimal():
        return f"{base}.retry{int(number) + 1}"
    return f"{content.buffer_id}.retry1"


def digest_items(items: Iterable[object]) -> tuple[int, str]:
    """How many items these are, and the digest that the journal keeps of them. Checks each as `start` does,
    and raises what that raises.
    """
    digest = ItemsDigest()
    total = 0
    for body, forms in _chunks(items):
        digest.update(body, forms)
        total += len(forms)
    return total, digest.hexdigest()


class _Upload:
    """Sends a start's items in numbered chunks, with a digest of them all.

    Chunks that were not acknowledged yet are kept: a client that reconnects sends those again.
    """

    def __init__(self, client: Client, header: dict[str, Any]) -> None:
        self._client = client
        self._header = header
        self._digest = ItemsDigest()
        self._unacknowledged: deque[tuple[int, tuple[dict[str, Any], str]]] = deque()
        self._number = 0
        self._total = 0
        self._existing = False

    def send(self, items: Iterable[object]) -> dict[str, Any]:
        """All of it; the supervisor's answer to the opening."""
        try:
            self._to_supervisor(lambda link: link.send({"k": "start", **self._header}))
            for body, forms in _chunks(items):
                self._send_chunk(body, forms)
            opening = {"k": "open", **self._header, "total": self._total, "digest": self._digest.hexdigest()}
            self._to_supervisor(lambda link: link.send(opening))
            while (answer := self._next_answer())["k"] != "opened":
                pass
            return answer
        except BaseException:
            with contextlib.suppress(DurableBusError):
                self._client._link.send({"k": "abandon", "request": self._header["request"]})
            raise

    def _send_chunk(self, body: str, forms: list[bool]) -> None:
        self._digest.update(body, forms)
        form, exceptions = form_and_exceptions(forms)
        chunk = {
            "k": "chunk",
            "request": self._header["request"],
            "number": self._number,
            "count": len(forms),
            "form": form,
            "exceptions": exceptions,
        }
        self._unacknowledged.append((self._number, (chunk, body)))
        self._number += 1
        self._total += len(forms)
        if not self._existing:
            self._to_supervisor(lambda link: link.send(chunk, body))
        link = self._client._link
        while len(self._unacknowledged) > _UNACKNOWLEDGED_CHUNKS_MAX or link.has_answer(
            self._header["request"]
        ):
            self._next_answer()

    def _next_answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = {}

        def wait(link: _Link) -> None:
            answer.update(link.answer(self._header["request"]))

        self._to_supervisor(wait)
        if answer["k"] == "receiving":
            self._existing = answer["existing"]
        received = self._number if self._existing else answer.get("next_chunk", 0)
        while self._unacknowledged and self._unacknowledged[0][0] < received:
            self._unacknowledged.popleft()
        return answer

    def _to_supervisor(self, action: Callable[[_Link], None]) -> None:
        """Do it; when the daemon has gone, wait until it is back, send again what it may not have, and do it
        then.
        """
        try:
            action(self._client._link)
        except SupervisorLost:
            self._client.reconnect()
            link = self._client._link
            link.send({"k": "start", **self._header})
            for _, (chunk, body) in list(self._unacknowledged):
                link.send(chunk, body)
            action(link)


def _chunks(items: Iterable[object]) -> Iterator[tuple[str, list[bool]]]:
    """Items as JSON arrays of a bounded size, each with whether its items are XML."""
    if isinstance(items, (str, bytes)):
        raise UsageError("items must be an iterable of items, not one str or bytes")
    iterator = iter(items)
    first_index = 0
    while batch := list(islice(iterator, _BATCH_ITEMS)):
        if all(type(item) is str for item in batch):
            texts: list[str] = batch  # type: ignore[assignment]
            forms = [text.startswith("<") or guess_is_xml(text) for text in texts]
        else:
            pairs = [_dump(item, first_index + position) for position, item in enumerate(batch)]
            texts, forms = [text for text, _ in pairs], [is_xml for _, is_xml in pairs]
        yield from _sized(texts, forms, first_index)
        first_index += len(batch)


def _dump(item: object, index: int) -> tuple[str, bool]:
    try:
        return dump_item(item)
    except DurableBusError as error:
        raise type(error)(f"item {index}: {error}") from None


def _sized(texts: list[str], forms: list[bool], first_index: int) -> Iterator[tuple[str, list[bool]]]:
    """Cut in halves until no chunk is too long; check what cannot be journaled."""
    chars = sum(map(len, texts))
    if chars > CHUNK_BYTES_MAX and len(texts) > 1:
        middle = len(texts) // 2
        yield from _sized(texts[:middle], forms[:middle], first_index)
        yield from _sized(texts[middle:], forms[middle:], first_index + middle)
        return
    body = dump_json(texts)
    if "\\u0000" in body or not body.isascii() or chars * 4 > PAYLOAD_BYTES_MAX:
        # Rarely, and never for a page of plain text: find the item that cannot be taken, and name it.
        for position, text in enumerate(texts):
            _dump(text, first_index + position)
    yield body, forms


class BufferStatus(NamedTuple):
    """How far a buffer is, from the view `buffers`."""

    buffer_id: str
    state: str
    paused: bool
    total: int
    completed: int
    successful: int
    failed: int
    pending: int


class Buffer:
    """A buffer that was started. Everything here is read from the journal, so it works as often as one
    likes.
    """

    def __init__(self, client: Client, buffer_id: str, buffer_seq: int, *, existed: bool) -> None:
        self._client = client
        self.buffer_id = buffer_id
        self._buffer_seq = buffer_seq
        self.existed = existed
        """It was in the journal before this call."""

    def __repr__(self) -> str:
        return f"<Buffer {self.buffer_id!r} in {str(self._client.journal)!r}>"

    def status(self) -> BufferStatus:
        row = self._client.reader().buffer(self.buffer_id)
        fields = {name: row[name] for name in BufferStatus._fields}
        return BufferStatus(**{**fields, "paused": bool(row["paused"])})

    def wait(self, timeout: float | None = None) -> BufferComplete:
        """Wait until the buffer has ended. `timeout` in seconds; raises TimedOut, and SupervisorLost when a
        supervisor
        of our own has ended before. Its `results` are read from the journal when asked for."""
        deadline_s = None if timeout is None else time.monotonic() + timeout
        self._client.wait_until(lambda: self._counts()[3], self.buffer_id, deadline_s)
        total, succeeded, _, _ = self._counts()
        return BufferComplete.reading(self.buffer_id, total, succeeded, self._read_results)

    def _counts(self) -> tuple[int, int, int, bool]:
        return self._client.reader().counts(self._buffer_seq)

    def _differs(self, seen: tuple[int, int, int, bool]) -> bool:
        return self._counts() != seen

    def _read_results(self) -> str:
        return "".join(results_document(self.results(), self._counts()[0]))

    def results(self) -> Iterator[Result]:
        """Every result recorded so far, in item order."""
        return self._client.reader().results(self._buffer_seq)

    def as_completed(self, timeout: float | None = None) -> Iterator[Result]:
        """Every result once, as they are recorded, until the buffer has ended. Raises as `wait` does."""
        deadline_s = None if timeout is None else time.monotonic() + timeout
        after = 0
        while True:
            ended = self._counts()[3]
            page, after = self._client.reader().results_after(self._buffer_seq, after)
            yield from page
            if ended and not page:
                return
            if not page:
                seen = self._counts()
                self._client.wait_until(partial(self._differs, seen), None, deadline_s)


def spawn_supervisor(
    app: dict[str, Any],
    app_name: str,
    journal: Path,
    workers: int,
    *,
    durability: str = "full",
    grace_s: float = 10.0,
    verbose: bool = False,
) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """A supervisor process of our own, that ends when we do, and our end of the socket to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    config = {
        "fd": theirs.fileno(),
        "journal": str(journal),
        "app": app,
        "app_name": app_name,
        "workers": workers,
        "durability": durability,
        "grace_s": grace_s,
        "verbose": verbose,
    }
    environment = dict(os.environ)
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([_PACKAGE_PARENT, *([inherited] if inherited else [])])
    # Ctrl-C reaches the whole foreground group: the supervisor is born with SIGINT blocked, and ignores it
    # then.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "durable_bus.daemon", dump_json(config)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,
            env=environment,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return process, ours


@contextlib.contextmanager
def running(
    bus: Bus,
    journal: str | os.PathLike[str] = "journal.db",
    workers: int | None = None,
    *,
    name: str | None = None,
    durability: str = "full",
    grace: float = 10.0,
) -> Iterator[Client]:
    """A supervisor of our own for this bus, as `with bus.running(journal="journal.db", workers=4) as
    client:`.

    `workers` defaults to the usable cores. `durability` is "full" or "normal" (survives any kill, not a power
    cut). Leaving the block finishes what runs, within `grace` seconds, and gives the rest back: the same call
    goes on with it. Raises BusNotImportable when workers could not import the bus, JournalLocked when another
    process serves the journal.
    """
    path = Path(journal)
    _refuse_inside_handler(path)
    with open_client(
        app_spec(bus), bus.name, path, workers, name=name, durability=durability, grace_s=grace
    ) as client:
        yield client


def _refuse_inside_handler(journal: Path) -> None:
    """A handler that waits for its own bus holds a worker that the answer may need. Raises InsideHandler."""
    served = os.environ.get(INSIDE_HANDLER_VARIABLE)
    if served and os.path.realpath(served) == os.path.realpath(journal):
        raise InsideHandler


def open_client(
    app: dict[str, Any],
    app_name: str,
    journal: Path,
    workers: int | None,
    *,
    name: str | None = None,
    **options: Any,
) -> Client:
    """A client with a supervisor of its own."""
    count = workers if workers is not None else len(os.sched_getaffinity(0))
    if count < 1:
        raise UsageError(f"workers={workers} must be at least 1")
    process, connection = spawn_supervisor(app, app_name, journal, count, **options)
    return Client._embedded(journal, connection, process, name)
