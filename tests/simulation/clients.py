"""Clients as a supervisor may meet them.

A simulated client says what the real one says, in the same order, and repeats it with the same ids when its
supervisor has gone. It may vanish, break its connection, or ask for something that is used already.
"""

import itertools
from typing import TYPE_CHECKING

from durable_bus.payloads.forms import digits_of
from durable_bus.payloads.items import ItemsDigest
from durable_bus.payloads.packing import pack
from durable_bus.wire.decoding import decode_request
from durable_bus.wire.framing import FrameReader, encode
from durable_bus.wire.protocol import (
    Answer,
    AppForms,
    AskForms,
    Cancel,
    Chunk,
    Controlled,
    Ended,
    Error,
    Fatal,
    Hello,
    LimitSet,
    Open,
    Opened,
    Pause,
    Received,
    Receiving,
    Request,
    Resume,
    SetLimit,
    Start,
    ToClient,
    Welcome,
)
from simulation.connections import Link
from simulation.handlers import FORMS
from simulation.records import Content, Violation, traceparent_of

if TYPE_CHECKING:
    from simulation.machine import Machine

__all__ = [
    "TRY_AGAIN",
    "UNACKNOWLEDGED_CHUNKS_MAX",
    "VERSION",
    "Control",
    "LimitSetter",
    "Peer",
    "Producer",
    "Starter",
]

VERSION = "simulated"
UNACKNOWLEDGED_CHUNKS_MAX = 8
TRY_AGAIN = ("no room on disk", "another client is sending its items just now")


class Peer:
    """A client's process: connects, says hello, comes back when the connection is lost."""

    mailbox: str | None = None
    """The name it says; None: it has no mailbox."""

    def __init__(self, machine: "Machine", name: str) -> None:
        self.name = name
        self.state = "busy"
        """`busy`, and in the end something else."""
        self.machine = machine
        self.world = machine.world
        self.link: Link | None = None
        self._request_ids = itertools.count()
        self._connecting = False

    @property
    def is_done(self) -> bool:
        return self.state != "busy"

    def new_request_id(self) -> str:
        return f"{self.name}.{next(self._request_ids)}"

    def connect(self) -> None:
        """Connect as soon as a supervisor is there."""
        self._connecting = False
        if self.link is not None or self.is_done:
            return
        self.link = self.machine.connect(self)
        if self.link is None:
            self._connect_later()
        else:
            request_id = f"{self.name}/hello"
            self.send(Hello(request_id, version=VERSION, name=self.mailbox))

    def _connect_later(self) -> None:
        if not self._connecting:
            self._connecting = True
            self.world.later(self.world.rng.uniform(0.001, 0.3), self.connect)

    def break_connection(self) -> None:
        """The connection breaks; it comes back and says the same again."""
        self.close()
        self._connect_later()

    def vanish(self) -> None:
        """It is killed, unless it has all it wanted."""
        self.close()
        if not self.is_done:
            self.state = "vanished"

    def close(self) -> None:
        if self.link is not None:
            self.link.closed_by_client = True
            if self.world.chance(0.5):
                self.link.to_supervisor.clear()  # a reset takes along what was not read
            self.link = None

    def send(self, request: Request, *bodies: bytes) -> None:
        assert self.link is not None
        if not self.link.closed_by_supervisor:
            self.link.to_supervisor.extend(FrameReader(decode_request).feed(encode(request, *bodies)))

    def lost(self, link: Link) -> None:
        """The supervisor has gone."""
        if link is self.link:
            self.link = None
            if not self.is_done:
                self._connect_later()

    def receive(self, link: Link, frame: ToClient) -> None:
        """A frame arrives, if it is still there."""
        if link is not self.link or isinstance(frame, Ended):
            return
        if isinstance(frame, Welcome):
            self.welcomed()
        elif isinstance(frame, Error) and frame.type in ("BusNotImportable", "EngineError", "StorageFull"):
            self.break_connection()
        else:
            assert not isinstance(frame, Fatal)
            self.answered(frame)

    def is_told(self, connection_id: int, frame: ToClient) -> None:
        """At the moment of sending: is it on disk?"""

    def welcomed(self) -> None:
        """The connection is there: say what there is to say."""

    def answered(self, answer: Answer | Error) -> None:
        raise Violation(f"client {self.name} was told {answer}")


class Producer(Peer):
    """Gives a buffer its items, and does not rest until it was told that they are on disk, or why not:
    `acknowledged`, `refused` or `vanished`.
    """

    def __init__(self, machine: "Machine", name: str, content: Content, mailbox: str | None) -> None:
        super().__init__(machine, name)
        self.mailbox = mailbox
        self.content = content
        self.refusal = ""
        self.begin_request()

    def begin_request(self) -> None:
        """Whatever it asks next is another request."""
        self.request_id = self.new_request_id()
        self.machine.model.asked[self.request_id] = self.content

    def begin_again(self) -> None:
        """It comes back with another request."""
        self.begin_request()
        self.break_connection()

    def ask_again(self) -> None:
        """Its answer was lost, as far as it knows."""
        if self.state == "acknowledged":
            self.state = "busy"
            self.break_connection()

    def is_refused(self, message: str) -> None:
        """For good."""
        self.state, self.refusal = "refused", message

    def name_may_come(self, message: str) -> bool:
        """Today's code lacks a listener that the app has otherwise."""
        name = self.content.target if message.startswith("unknown target") else self.content.return_to
        return message.startswith("unknown ") and name in self.machine.listeners


class Starter(Producer):
    """Starts a buffer with all its items: whole, or nothing of it."""

    def __init__(
        self, machine: "Machine", name: str, content: Content, chunks: list[int], mailbox: str | None
    ) -> None:
        """`chunks`: how many items each holds."""
        super().__init__(machine, name, content, mailbox)
        self._digest = ItemsDigest()
        self._chunks = self._cut(chunks)
        machine.model.told.puts(content.buffer_id, len(content.texts))

    def _cut(self, sizes: list[int]) -> list[tuple[int, str, bytes]]:
        """Of each chunk how many items, their forms, and the body."""
        chunks = []
        first = 0
        for size in sizes:
            forms = bytes(self.content.forms[first : first + size])
            body = pack(list(self.content.texts[first : first + size]))
            self._digest.update(body, forms)
            chunks.append((size, digits_of(forms), body))
            first += size
        return chunks

    def begin_request(self) -> None:
        super().begin_request()
        self._acknowledged_chunks = 0
        self._sent_chunks = 0
        self._existing = False
        self._sent_open = False

    def welcomed(self) -> None:
        self._sent_chunks, self._sent_open = self._acknowledged_chunks, False
        content = self.content
        if self.world.chance(0.2):
            self.send(AskForms(f"{self.name}/forms"))  # a client that has a dataclass among its items
        start = Start(
            self.request_id, content.buffer_id, content.target, content.collect, content.return_to,
            terms=content.terms, traceparent=traceparent_of(content.buffer_id),
        )  # fmt: skip
        self.send(start)
        if not self.world.chance(0.3):
            self._go_on()

    def _go_on(self) -> None:
        """Send what may be sent now."""
        while (
            not self._existing
            and self._sent_chunks < len(self._chunks)
            and self._sent_chunks - self._acknowledged_chunks < UNACKNOWLEDGED_CHUNKS_MAX
        ):
            count, forms, body = self._chunks[self._sent_chunks]
            self.send(Chunk(self.request_id, self._sent_chunks, count, forms), body)
            self._sent_chunks += 1
        if (self._existing or self._sent_chunks == len(self._chunks)) and not self._sent_open:
            self._sent_open = True
            total, digest = len(self.content.texts), self._digest.hexdigest()
            self.send(Open(self.request_id, total, digest))

    def is_told(self, connection_id: int, frame: ToClient) -> None:
        model = self.machine.model
        if isinstance(frame, Opened):
            model.told.opened(self.content, frame)
        elif isinstance(frame, Received | Receiving):
            existing = self._existing or (isinstance(frame, Receiving) and frame.existing)
            if not existing and frame.request == self.request_id and frame.next_chunk:
                model.told.received(self.content, self.request_id, frame.next_chunk)
        elif isinstance(frame, Ended):
            model.told.ended(frame.buffer_id)
        elif isinstance(frame, Error) and "this id is used already" in frame.message:
            model.told.used(self.content)
        elif isinstance(frame, Error) and frame.message == "it is a stream that is not sealed":
            model.told.is_a_stream(self.content)

    def answered(self, answer: Answer | Error) -> None:
        if isinstance(answer, AppForms) and answer.forms != FORMS:
            raise Violation(f"client {self.name} was told {answer}")
        if answer.request != self.request_id:
            return  # of a request that it has given up
        is_there = isinstance(answer, Receiving) and not answer.existing
        if is_there and answer.next_chunk < self._acknowledged_chunks:
            if not (self._is_dropped or self._has_a_rival):
                raise Violation(f"client {self.name} was told {answer}, and more is on disk")
            self.begin_again()
        elif isinstance(answer, Received | Receiving):
            self._existing = self._existing or (isinstance(answer, Receiving) and answer.existing)
            self._acknowledged_chunks = max(self._acknowledged_chunks, answer.next_chunk)
            self._sent_chunks = max(self._sent_chunks, self._acknowledged_chunks)
            self._go_on()
        elif isinstance(answer, Opened):
            self.state = "acknowledged"
        elif isinstance(answer, Error):
            self._refused(answer)
        else:
            super().answered(answer)

    @property
    def _is_cancelled(self) -> bool:
        return self.content.buffer_id in self.machine.model.told.cancelling

    @property
    def _is_dropped(self) -> bool:
        """What has come may be gone: cancelled, or given up as if its client had been away for long."""
        return self.machine.clock_was_set or self._is_cancelled

    @property
    def _has_a_rival(self) -> bool:
        """Another client starts with this id, and takes its place while this one is away."""
        buffer_id = self.content.buffer_id
        return sum(one.content.buffer_id == buffer_id for one in self.machine.producers) > 1

    def _refused(self, error: Error) -> None:
        kind, message = error.type, error.message
        if kind == "UsageError" and " came before chunk " in message and self._is_dropped:
            self.begin_again()
            return
        if kind not in ("BufferError", "OtherItems"):
            raise Violation(f"client {self.name} was refused with {error}")
        if (
            message in TRY_AGAIN
            or self.name_may_come(message)
            or ("arrived" in message and self._is_cancelled)
        ):
            self.begin_again()
        elif message.startswith(("this id is used already", "unknown ", "it is a stream that is not sealed")):
            self.is_refused(message)
        else:
            raise Violation(f"client {self.name} was refused with {error}")


class Control(Peer):
    """Asks for one thing about a buffer, `cancel`, `pause` or `resume`, until it was answered."""

    def __init__(self, machine: "Machine", name: str, verb: str, buffer_id: str) -> None:
        super().__init__(machine, name)
        kind: type[Cancel | Pause | Resume] = {"cancel": Cancel, "pause": Pause, "resume": Resume}[verb]
        self._verb = verb
        self._request = kind(self.new_request_id(), buffer_id)
        if verb == "cancel":
            machine.model.told.cancelling.add(buffer_id)

    def welcomed(self) -> None:
        self.send(self._request)

    def is_told(self, connection_id: int, frame: ToClient) -> None:
        if isinstance(frame, Controlled):
            self.machine.model.told.controlled(self._verb, frame)

    def answered(self, answer: Answer | Error) -> None:
        if isinstance(answer, Error):
            too_early = self._verb == "pause" and "still arriving" in answer.message
            if self._verb == "resume" and "it has spent more than that already" in answer.message:
                self._request = Resume(self.new_request_id(), self._request.buffer_id, {"usd": 100.0})
                self.send(self._request)
                return
            if not too_early and answer.type != "NotFound":
                super().answered(answer)
        elif not isinstance(answer, Controlled):
            super().answered(answer)
        self.state = "answered"
        self.close()


class LimitSetter(Peer):
    """Changes a limit by hand, or resets it, until it was answered."""

    def __init__(
        self, machine: "Machine", name: str, limit: str, rate: str | None, running: int | None
    ) -> None:
        """With neither `rate` nor `running` it is reset."""
        super().__init__(machine, name)
        self._request = SetLimit(self.new_request_id(), limit, rate, running, not (rate or running))

    def welcomed(self) -> None:
        self.send(self._request)

    def is_told(self, connection_id: int, frame: ToClient) -> None:
        if isinstance(frame, LimitSet):
            self.machine.model.told.limit_set(frame)

    def answered(self, answer: Answer | Error) -> None:
        unknown = isinstance(answer, Error) and "the app has no limit" in answer.message
        if not unknown and not isinstance(answer, LimitSet):
            super().answered(answer)
        self.state = "answered"
        self.close()
