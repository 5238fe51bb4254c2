"""The connections port: clients as a supervisor may meet them.

A simulated client says what the real one says, in the same order, and repeats it with the same ids when its
supervisor has gone. It may vanish, break its connection, or ask for something that is used already.
"""

import itertools
from collections import deque
from typing import TYPE_CHECKING

from durable_bus.payloads.items import ItemsDigest, form_and_exceptions
from durable_bus.payloads.packing import pack
from durable_bus.supervisor.ports import ClientClosed, ClientSpoke
from durable_bus.wire.decoding import decode_answer, decode_request
from durable_bus.wire.framing import Frame, FrameReader, encode
from durable_bus.wire.protocol import (
    AbandonReceiving,
    Acknowledge,
    Answer,
    Cancel,
    Chunk,
    Controlled,
    Ended,
    Error,
    Fatal,
    FromClient,
    Hello,
    Message,
    Open,
    Opened,
    Pause,
    Receive,
    Received,
    Receiving,
    Request,
    Respond,
    Resume,
    Send,
    Sent,
    Settled,
    Start,
    ToClient,
    Welcome,
)
from simulation.model import Content, Violation

if TYPE_CHECKING:
    from simulation.machine import Machine

__all__ = ["VERSION", "Control", "Correspondent", "Link", "Peer", "SimulatedConnections", "Starter"]

VERSION = "simulated"
_UNACKNOWLEDGED_CHUNKS_MAX = 8
_TRY_AGAIN = ("no room on disk", "another client is sending its items just now")


class Link:
    """One connection between a client and a supervisor."""

    def __init__(self, connection_id: int, peer: "Peer") -> None:
        self.connection_id = connection_id
        self.peer = peer
        self.to_supervisor: deque[Frame[FromClient]] = deque()
        self.kept: deque[Frame[FromClient]] = deque()
        """What the supervisor has read, and given back for later."""
        self.closed_by_client = False
        self.closed_by_supervisor = False
        self.arrives_ns = 0
        """When the last frame sent to the client arrives."""


class SimulatedConnections:
    """The connections port of one supervisor's lifetime."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._world = machine.world
        self._links: dict[int, Link] = {}
        self._ids = itertools.count(1)
        self._reader = FrameReader(decode_answer)

    def connect(self, peer: "Peer") -> Link:
        link = Link(next(self._ids), peer)
        self._links[link.connection_id] = link
        return link

    @property
    def is_ready(self) -> bool:
        return any(
            not link.kept and (link.to_supervisor or link.closed_by_client) for link in self._links.values()
        )

    @property
    def keeps_any(self) -> bool:
        return any(link.kept for link in self._links.values())

    @property
    def has_unread(self) -> bool:
        return False  # what is left makes `is_ready` true

    def keep(self, frames: list[ClientSpoke]) -> None:
        for spoke in reversed(frames):
            link = self._links.get(spoke.connection_id)
            if link is not None and not link.closed_by_supervisor:
                link.kept.appendleft(spoke.frame)

    def take_events(self) -> list[ClientSpoke | ClientClosed]:
        events: list[ClientSpoke | ClientClosed] = []
        links = list(self._links.values())
        self._world.rng.shuffle(links)
        for link in links:
            if link.closed_by_client and not (link.kept or link.to_supervisor):
                del self._links[link.connection_id]
                self._machine.model.receiver_gone(link.connection_id)
                events.append(ClientClosed(link.connection_id))
            waited = bool(link.kept)
            while link.kept:
                events.append(ClientSpoke(link.connection_id, link.kept.popleft()))
            while link.to_supervisor and not waited:
                frame = link.to_supervisor.popleft()
                if isinstance(frame.header, AbandonReceiving):
                    self._machine.model.receiver_interrupted(link.connection_id, frame.header.request)
                events.append(ClientSpoke(link.connection_id, frame))
                if self._world.chance(self._machine.faults.read_in_parts):
                    break
        return events

    def send(self, connection_id: int, data: bytes) -> None:
        self._machine.sending()
        link = self._links.get(connection_id)
        if link is None:
            return
        for frame in self._reader.feed(data):
            if not isinstance(frame.header, Welcome):
                self._world.note(f"to client {link.peer.name}: {frame.header}")
            link.peer.is_told(connection_id, frame.header)
            self._deliver(link, frame.header)

    def _deliver(self, link: Link, frame: ToClient) -> None:
        arrives_ns = self._world.now_ns + self._world.rng.randrange(10_000, 500_000)
        link.arrives_ns = max(link.arrives_ns, arrives_ns)
        self._world.at(link.arrives_ns, lambda: link.peer.receive(link, frame))

    def close(self, connection_id: int) -> None:
        link = self._links.get(connection_id)
        if link is not None:
            link.closed_by_supervisor = True

    def end(self) -> None:
        """The supervisor has died. What it has sent still arrives."""
        for link in self._links.values():
            self._lose(link)
        self._links.clear()

    def _lose(self, link: Link) -> None:
        self._world.at(max(link.arrives_ns, self._world.now_ns) + 1000, lambda: link.peer.lost(link))


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
        elif isinstance(frame, Error) and frame.type in ("BusNotImportable", "StorageFull"):
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


class Starter(Peer):
    """Starts one buffer, and does not rest until it was told that it is on disk, or why not: `acknowledged`,
    `refused` or `vanished`.
    """

    def __init__(
        self, machine: "Machine", name: str, content: Content, chunks: list[int], mailbox: str | None
    ) -> None:
        """`chunks`: how many items each holds."""
        super().__init__(machine, name)
        self.mailbox = mailbox
        self.content = content
        self.refusal = ""
        self._digest = ItemsDigest()
        self._chunks = self._cut(chunks)
        self._begin_request()

    def _cut(self, sizes: list[int]) -> list[tuple[int, int, list[int], bytes]]:
        """Of each chunk how many items, their form, the exceptions, and the body."""
        chunks = []
        first = 0
        for size in sizes:
            forms = list(self.content.forms[first : first + size])
            body = pack(list(self.content.texts[first : first + size]))
            form, exceptions = form_and_exceptions(forms)
            self._digest.update(body, forms)
            chunks.append((size, form, exceptions, body))
            first += size
        return chunks

    def _begin_request(self) -> None:
        self.request_id = self.new_request_id()
        self.machine.model.asked[self.request_id] = self.content
        self._acknowledged_chunks = 0
        self._sent_chunks = 0
        self._existing = False
        self._sent_open = False

    def ask_again(self) -> None:
        """Its answer was lost, as far as it knows."""
        if self.state == "acknowledged":
            self.state = "busy"
            self.break_connection()

    def welcomed(self) -> None:
        self._sent_chunks, self._sent_open = self._acknowledged_chunks, False
        content = self.content
        self.send(
            Start(self.request_id, content.buffer_id, content.target, content.collect, content.return_to)
        )
        if not self.world.chance(0.3):
            self._go_on()

    def _go_on(self) -> None:
        """Send what may be sent now."""
        while (
            not self._existing
            and self._sent_chunks < len(self._chunks)
            and self._sent_chunks - self._acknowledged_chunks < _UNACKNOWLEDGED_CHUNKS_MAX
        ):
            count, form, exceptions, body = self._chunks[self._sent_chunks]
            self.send(Chunk(self.request_id, self._sent_chunks, count, form, exceptions), body)
            self._sent_chunks += 1
        if (self._existing or self._sent_chunks == len(self._chunks)) and not self._sent_open:
            self._sent_open = True
            total, digest = len(self.content.texts), self._digest.hexdigest()
            self.send(Open(self.request_id, total, digest))

    def is_told(self, connection_id: int, frame: ToClient) -> None:
        model = self.machine.model
        if isinstance(frame, Opened):
            model.told_opened(self.content, frame)
        elif isinstance(frame, Received | Receiving):
            existing = self._existing or (isinstance(frame, Receiving) and frame.existing)
            if not existing and frame.request == self.request_id and frame.next_chunk:
                model.told_received(self.content, self.request_id, frame.next_chunk)
        elif isinstance(frame, Ended):
            model.told_ended(frame.buffer_id)
        elif isinstance(frame, Error) and "this id is used already" in frame.message:
            model.told_used(self.content)

    def answered(self, answer: Answer | Error) -> None:
        if answer.request != self.request_id:
            return  # of a request that it has given up
        if isinstance(answer, Received | Receiving):
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

    def _refused(self, error: Error) -> None:
        kind, message = error.type, error.message
        if kind == "UsageError" and " came before chunk " in message and self.machine.clock_was_set:
            self._begin_request()  # it was given up, as if its client had been away for long
            self.break_connection()
            return
        if kind != "BufferError":
            raise Violation(f"client {self.name} was refused with {error}")
        was_cancelled = self.content.buffer_id in self.machine.model.cancelling
        if message in _TRY_AGAIN or self._name_may_come(message) or ("arrived" in message and was_cancelled):
            self._begin_request()
            self.break_connection()
        elif "this id is used already" in message or message.startswith("unknown "):
            self.state, self.refusal = "refused", message
        else:
            raise Violation(f"client {self.name} was refused with {error}")

    def _name_may_come(self, message: str) -> bool:
        """Today's code lacks a listener that the app has otherwise."""
        name = self.content.target if message.startswith("unknown target") else self.content.return_to
        return message.startswith("unknown ") and name in self.machine.listeners


class Control(Peer):
    """Asks for one thing about a buffer, `cancel`, `pause` or `resume`, until it was answered."""

    def __init__(self, machine: "Machine", name: str, verb: str, buffer_id: str) -> None:
        super().__init__(machine, name)
        kind: type[Cancel | Pause | Resume] = {"cancel": Cancel, "pause": Pause, "resume": Resume}[verb]
        self._verb = verb
        self._request = kind(self.new_request_id(), buffer_id)
        if verb == "cancel":
            machine.model.cancelling.add(buffer_id)

    def welcomed(self) -> None:
        self.send(self._request)

    def is_told(self, connection_id: int, frame: ToClient) -> None:
        if isinstance(frame, Controlled):
            self.machine.model.told_controlled(self._verb, frame)

    def answered(self, answer: Answer | Error) -> None:
        if isinstance(answer, Error):
            too_early = self._verb == "pause" and "still arriving" in answer.message
            if not too_early and answer.type != "NotFound":
                super().answered(answer)
        elif not isinstance(answer, Controlled):
            super().answered(answer)
        self.state = "answered"
        self.close()


class Correspondent(Peer):
    """Has a mailbox: sends messages, and responds to or acknowledges what it receives."""

    def __init__(self, machine: "Machine", name: str, mailbox: str, letters: list[tuple[str, str]]) -> None:
        """`letters`: what it sends to whom, as (name, text)."""
        super().__init__(machine, name)
        self.mailbox = mailbox
        self._letters = [(self.new_request_id(), to_id, text) for to_id, text in letters]
        self._sent = 0
        self._receiving: str | None = None
        self._thinking_about: Message | None = None
        """The message it has and has not settled; one it had over another connection comes again."""
        self._settling: Respond | Acknowledge | None = None

    @property
    def has_sent_all(self) -> bool:
        return self._sent == len(self._letters)

    def welcomed(self) -> None:
        self._receiving = None  # it is asked again: what was with the old connection waits again
        self._thinking_about = None
        self._say_next()

    def _say_next(self) -> None:
        if not self.has_sent_all:
            self._send_letter()
        if self._settling is not None:
            self.send(self._settling)
        elif self._receiving is None:
            self._ask()

    def _ask(self) -> None:
        """Ask for a message; sometimes it is interrupted while it waits, whether one is on its way or not."""
        link = self.link
        request_id = self._receiving = self.new_request_id()
        self.send(Receive(request_id))
        if self.world.chance(0.1):
            self.world.later(
                self.world.rng.choice([0.0, 0.001, 0.5]), lambda: self._interrupt(link, request_id)
            )

    def _interrupt(self, link: Link | None, request_id: str) -> None:
        if link is not None and link is self.link and request_id == self._receiving:
            self.send(AbandonReceiving(request_id))
            self._ask()

    def is_told(self, connection_id: int, frame: ToClient) -> None:
        model = self.machine.model
        if isinstance(frame, Sent):
            model.told_sent(frame.request, frame.message_id)
        elif isinstance(frame, Message):
            model.told_message(connection_id, self.mailbox or "", frame)
        elif isinstance(frame, Settled):
            model.told_settled(frame.message_id)

    def answered(self, answer: Answer | Error) -> None:
        request_id = answer.request
        if isinstance(answer, Message):
            if request_id == self._receiving and self.world.chance(0.05):
                self._interrupt(self.link, request_id)
            elif request_id == self._receiving:
                self._receiving = None
                self._thinking_about = answer
                delay_s = self.world.rng.choice([0.0, 0.01, 0.5])
                self.world.later(delay_s, lambda: self._settle(answer, self.world.chance(0.7)))
        elif not self.has_sent_all and request_id == self._letters[self._sent][0]:
            if isinstance(answer, Sent) or (isinstance(answer, Error) and answer.type == "MessageRefused"):
                self._sent += 1
                if not self.has_sent_all:
                    self._send_letter()
        elif self._settling is not None and request_id == self._settling.request:
            if isinstance(answer, Error) and "nobody is waiting" in answer.message:
                self._settling = Acknowledge(self.new_request_id(), self._settling.message_id)
                self.send(self._settling)
            elif isinstance(answer, Error) and "settled before" not in answer.message:
                super().answered(answer)
            else:
                self._settling = None
                self._say_next_receive()

    def _send_letter(self) -> None:
        request_id, to_id, text = self._letters[self._sent]
        self.send(Send(request_id, to_id, text, False))

    def _settle(self, message: Message, respond: bool) -> None:
        if message is not self._thinking_about:
            return
        request_id, message_id = self.new_request_id(), message.message_id
        text = ""
        if respond:
            text = f"{self.mailbox} responds {self.world.rng.getrandbits(32):08x}"
            self._settling = Respond(request_id, message_id, text, False, True)
        else:
            self._settling = Acknowledge(request_id, message_id)
        self.machine.model.said(message.thread_id, text, success=True, is_xml=False)
        if self.link is not None:
            self.send(self._settling)

    def _say_next_receive(self) -> None:
        if self._receiving is None:
            self._ask()
