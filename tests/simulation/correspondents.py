"""Clients with a mailbox, as a supervisor may meet them."""

from typing import TYPE_CHECKING

from durable_bus.payloads.forms import TEXT
from durable_bus.wire.protocol import (
    AbandonReceiving,
    Acknowledge,
    Answer,
    Error,
    Message,
    Receive,
    Respond,
    Send,
    Sent,
    Settled,
    ToClient,
)
from simulation.clients import Peer
from simulation.connections import Link
from simulation.forms import some_form, worded

if TYPE_CHECKING:
    from simulation.machine import Machine

__all__ = ["Correspondent"]


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
            model.told.sent(frame.request, frame.message_id)
        elif isinstance(frame, Message):
            model.told.message(connection_id, self.mailbox or "", frame)
        elif isinstance(frame, Settled):
            model.told.settled(frame.message_id)

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
        form = len(text) % 4  # the same when it is sent again
        self.send(Send(request_id, to_id, worded(text, form), form))

    def _settle(self, message: Message, respond: bool) -> None:
        if message is not self._thinking_about:
            return
        request_id, message_id = self.new_request_id(), message.message_id
        text, form = "", TEXT
        if respond:
            form = some_form(self.world.rng)
            text = worded(f"{self.mailbox} responds {self.world.rng.getrandbits(32):08x}", form)
            self._settling = Respond(request_id, message_id, text, form, True)
        else:
            self._settling = Acknowledge(request_id, message_id)
        self.machine.model.said(message.thread_id, text, success=True, form=form)
        if self.link is not None:
            self.send(self._settling)

    def _say_next_receive(self) -> None:
        if self._receiving is None:
            self._ask()
