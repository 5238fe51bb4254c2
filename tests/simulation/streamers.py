"""Clients that have the items of a stream, one after another, as a supervisor may meet them.

All producers of a stream have the same items, and each goes on behind what has come. It cuts its chunks as it
likes, under a request of its own.
"""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from durable_bus.payloads.forms import digits_of
from durable_bus.payloads.items import ItemsDigest
from durable_bus.payloads.packing import pack
from durable_bus.wire.protocol import (
    Abandon,
    Answer,
    Chunk,
    Ended,
    Error,
    Open,
    Opened,
    Received,
    Receiving,
    Start,
    ToClient,
)
from simulation.clients import TRY_AGAIN, UNACKNOWLEDGED_CHUNKS_MAX, Producer
from simulation.connections import Link
from simulation.records import Content, Violation, traceparent_of

if TYPE_CHECKING:
    from simulation.machine import Machine

__all__ = ["Habits", "Streamer"]

_PRODUCERS_MAX = 6
"""Of one stream, those included that come and are refused."""
_GONE_ON = "another client has gone on with this stream meanwhile"


@dataclass(frozen=True)
class Habits:
    """What a producer does beside putting items; by default nothing: it puts them all, and seals.

    Probabilities are those of a chunk.
    """

    pause_s: float = 0.0
    """The longest pause between two chunks."""
    flush: float = 0.0
    """It waits until all that it has put is on disk."""
    lose_connection: float = 0.0
    """And it comes back with the same request; meanwhile somebody else may have gone on."""
    leave: float = 0.0
    """It leaves the stream unsealed, or is killed."""
    hasty: float = 0.0
    """It wants to seal although it has not put all."""
    stubborn: bool = True
    """It comes again when another producer was in its way."""

    @classmethod
    def draw(cls, rng: random.Random) -> "Habits":
        return cls(
            pause_s=rng.choice([0.0, 0.001, 0.02, 0.5]),
            flush=rng.choice([0.0, 0.3, 1.0]),
            lose_connection=rng.choice([0.0, 0.0, 0.1, 0.3]),
            leave=rng.choice([0.0, 0.0, 0.2, 0.5]),
            hasty=rng.choice([0.0, 0.0, 0.2]),
            stubborn=rng.random() < 0.5,
        )


class Streamer(Producer):
    """Puts the items of a stream and seals it, unless it is one that leaves before."""

    def __init__(
        self, machine: "Machine", name: str, content: Content, mailbox: str | None, habits: Habits
    ) -> None:
        super().__init__(machine, name, content, mailbox)
        self.habits = habits

    def begin_request(self) -> None:
        super().begin_request()
        self._begun = False
        """It was told where to go on; whenever it repeats this request, it says so."""
        self._first_of: dict[int, int] = {}
        """Of each chunk of this request, and of the one that comes next, the index of its first item."""
        self._next_chunk = 0
        self._acknowledged = 0
        """All chunks before this number are on disk."""
        self._flushing = False
        self._waiting = False
        """It puts nothing before an answer has come."""
        self._sealing = False

    def welcomed(self) -> None:
        content = self.content
        start = Start(
            self.request_id, content.buffer_id, content.target, content.collect, content.return_to,
            stream=True, again=self._begun, terms=content.terms,
            traceparent=traceparent_of(content.buffer_id),
        )  # fmt: skip
        self.send(start)
        if self._begun:
            for number in range(self._acknowledged, self._next_chunk):
                self._send_chunk(number)
            if self._sealing:
                self._send_open()
            self._put_soon()
        else:
            self._sealing = False

    def _put_soon(self) -> None:
        over = (self.request_id, self.link)
        self._waiting = False
        self.world.later(self.world.rng.uniform(0.0, self.habits.pause_s), lambda: self._put(over))

    def _put(self, over: tuple[str, Link | None]) -> None:
        """The next chunk, if it still sends this request over this connection."""
        if self.link is None or over != (self.request_id, self.link) or self.is_done or self._sealing:
            return
        behind = self._next_chunk - self._acknowledged
        if behind >= UNACKNOWLEDGED_CHUNKS_MAX or (self._flushing and behind):
            self._waiting = True
            return
        habits, chance = self.habits, self.world.chance
        first, total = self._first_of[self._next_chunk], len(self.content.texts)
        if chance(habits.leave):
            self._leave()
        elif chance(habits.lose_connection):
            self.break_connection()
            if chance(0.3):
                self._somebody_else_comes(0.0)
        elif first == total or chance(habits.hasty):
            self._seal()
        else:
            self._first_of[self._next_chunk + 1] = first + self.world.rng.randint(1, total - first)
            self._send_chunk(self._next_chunk)
            self._next_chunk += 1
            self._flushing = chance(habits.flush)
            self._put_soon()

    def _send_chunk(self, number: int) -> None:
        first, end = self._first_of[number], self._first_of[number + 1]
        body, forms = pack(list(self.content.texts[first:end])), bytes(self.content.forms[first:end])
        self.machine.model.told.puts(self.content.buffer_id, end)
        self.send(Chunk(self.request_id, number, end - first, digits_of(forms)), body)

    def _seal(self) -> None:
        self._sealing = True
        self._send_open()

    def _send_open(self) -> None:
        """The digest is only for who has had all items in its hands."""
        digest = None
        if self._first_of.get(0) == 0 and self.content.texts:
            sha = ItemsDigest()
            sha.update(pack(list(self.content.texts)), bytes(self.content.forms))
            digest = sha.hexdigest()
        self.send(Open(self.request_id, len(self.content.texts), digest))

    def _leave(self) -> None:
        if self.world.chance(0.5):
            self.vanish()
        else:
            self.send(Abandon(self.request_id))
            self.close()
            self.state = "left"
        if self.world.chance(0.5):
            self._somebody_else_comes(self.world.rng.uniform(0.0, 0.5))

    def _somebody_else_comes(self, delay_s: float) -> None:
        """Another process of the same program."""
        producers = [one for one in self.machine.streamers if one.content is self.content]
        if len(producers) < _PRODUCERS_MAX:
            self.machine.stream(self.content, Habits.draw(self.world.rng), delay_s, self.mailbox)

    def is_told(self, connection_id: int, frame: ToClient) -> None:
        told = self.machine.model.told
        if isinstance(frame, Ended):
            told.ended(frame.buffer_id)
        elif isinstance(frame, Error) and frame.message == _GONE_ON:
            told.gone_on(self.content, frame.request or "")
        elif isinstance(frame, Opened):
            told.opened(self.content, frame)
        elif isinstance(frame, Received | Receiving) and frame.request == self.request_id:
            if isinstance(frame, Receiving):
                if self._begun and self.link is not None and self.link.connection_id == connection_id:
                    self._may_go_on(frame)
                told.put(self.content, frame.received)
            if frame.next_chunk in self._first_of:
                told.put(self.content, self._first_of[frame.next_chunk])

    def _may_go_on(self, frame: Receiving) -> None:
        """It comes back and is let in: it counts its chunks as before, or it has sealed the stream."""
        if frame.existing:
            self.machine.model.told.has_sealed(self.content, self.request_id)
        elif self._first_of.get(frame.next_chunk) != frame.received:
            raise Violation(f"client {self.name} counts {self._first_of}, and was told {frame}")

    def answered(self, answer: Answer | Error) -> None:
        if answer.request != self.request_id:
            return  # of a request that it has given up
        if isinstance(answer, Receiving):
            self._is_receiving(answer)
        elif isinstance(answer, Received):
            self._is_received(answer.next_chunk)
        elif isinstance(answer, Opened):
            self.state = "acknowledged"
        elif isinstance(answer, Error):
            self._refused(answer)
        else:
            super().answered(answer)

    def _is_receiving(self, answer: Receiving) -> None:
        if answer.existing:
            if not self._sealing:
                self._seal()  # it has nothing to put: all is there
        elif not self._begun:
            self._begun = True
            self._first_of = {answer.next_chunk: answer.received}
            self._next_chunk = self._acknowledged = answer.next_chunk
            self._put_soon()
        else:
            self._is_received(answer.next_chunk)

    def _is_received(self, next_chunk: int) -> None:
        self._acknowledged = max(self._acknowledged, next_chunk)
        if self._waiting:
            self._put_soon()

    def _refused(self, error: Error) -> None:
        """A producer is refused in many ways. It comes again, as an operator would start its program again,
        unless nothing will come of it.
        """
        message = error.message
        if error.type == "BufferEnded" and self.machine.model.told.ended_early(self.content.buffer_id):
            self.is_refused(message)
            return
        if error.type != "BufferError":
            raise Violation(f"client {self.name} was refused with {error}")
        was_cancelled = self.content.buffer_id in self.machine.model.told.cancelling
        if (
            self.name_may_come(message)
            or message == TRY_AGAIN[0]
            or (self._sealing and "items arr" in message)
        ):
            self.begin_again()
        elif message in (*TRY_AGAIN, _GONE_ON):
            if self.habits.stubborn:
                self.begin_again()
            else:
                self.is_refused(message)
        elif (
            message.startswith("unknown ")
            or (message.startswith("it was cancelled") and was_cancelled)
            or (message == "No items specified" and not self.content.texts)
        ):
            self.is_refused(message)
        else:
            raise Violation(f"client {self.name} was refused with {error}")

    def begin_again(self) -> None:
        """Over another connection, or over the same one, where it says that it gives up what it has begun."""
        link = self.link
        if link is None or self.world.chance(0.5):
            super().begin_again()
        else:
            self.send(Abandon(self.request_id))
            self.begin_request()
            self.world.later(self.world.rng.uniform(0.001, 0.3), lambda: self._say_again(link))

    def _say_again(self, link: Link) -> None:
        if link is self.link and not self.is_done:
            self.welcomed()
