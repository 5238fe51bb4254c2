"""Messages of a client: sent, received from its mailbox, and settled. `Client` has the same methods."""

import time
from typing import NamedTuple

from durable_bus.client.buffer import deadline_after
from durable_bus.client.session import Session
from durable_bus.errors import DurableBusError, SupervisorLost, TimedOut, UnserialisableAnswer, UsageError
from durable_bus.payloads.forms import FORM_NAMES, XML
from durable_bus.payloads.values import ValueWriter
from durable_bus.wire import protocol
from durable_bus.wire.ids import new_id

__all__ = ["Mailbox", "ReceivedMessage"]


class ReceivedMessage(NamedTuple):
    """A message from a mailbox. `kind` is its root element's name, or "text", "json" or "pickle"."""

    message_id: str
    kind: str
    from_id: str
    thread_id: str
    payload: str
    is_xml: bool
    form: str
    """"text", "xml", "json" or "pickle"."""


class Mailbox:
    """What `Client.send`, `receive`, `respond` and `acknowledge` do. They say what each raises."""

    def __init__(self, session: Session, name: str | None, writer: ValueWriter) -> None:
        self._session = session
        self._name = name
        self._writer = writer

    def send(self, to: str, payload: object) -> str:
        text, form = self._writer.message(payload)
        return self._session.ask(protocol.Send(new_id(), to, text, form), protocol.Sent).message_id

    def receive(self, timeout: float | None) -> ReceivedMessage:
        receive = protocol.Receive(new_id())
        try:
            message = self._receive(receive, deadline_after(timeout))
        except TimedOut:
            raise TimedOut(f"no message to {self._name} within {timeout} s") from None
        except DurableBusError:
            raise  # the supervisor's answer, or the end of the connection: nothing is on its way to us
        except BaseException:
            self._session.connection.say(protocol.AbandonReceiving(receive.request))
            raise
        return ReceivedMessage(
            message.message_id,
            message.kind,
            message.from_id,
            message.thread_id,
            message.payload,
            message.form == XML,
            FORM_NAMES[message.form],
        )

    def _receive(self, receive: protocol.Receive, deadline_s: float | None) -> protocol.Message:
        while True:
            connection = self._session.connection
            try:
                connection.send(receive)
                left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
                try:
                    answer = connection.answer(receive.request, left_s)
                except TimedOut:
                    connection.send(protocol.StopReceiving(receive.request))
                    answer = connection.answer(receive.request)
                if not isinstance(answer, protocol.Message):
                    raise TimedOut
                return answer
            except SupervisorLost:
                self._session.reconnect(connection, deadline_s)
            finally:
                connection.forget(receive.request)

    def respond(self, message: ReceivedMessage | str, payload: object) -> None:
        try:
            text, form, success = self._writer.outcome(payload)
        except UnserialisableAnswer as error:
            raise UsageError(f"not an answer: {error}") from error
        message_id, waiting = _which(message)
        respond = protocol.Respond(new_id(), message_id, text, form, success, waiting)
        self._session.ask(respond, protocol.Settled)

    def acknowledge(self, message: ReceivedMessage | str) -> None:
        self._session.ask(protocol.Acknowledge(new_id(), *_which(message)), protocol.Settled)


def _which(message: ReceivedMessage | str) -> tuple[str, bool]:
    """A message's id, and whether it must be one that nobody has received."""
    return (message, True) if isinstance(message, str) else (message.message_id, False)
