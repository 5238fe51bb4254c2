"""What must come true when faults have stopped."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from simulation.clients import Control
from simulation.correspondents import Correspondent
from simulation.records import Violation
from simulation.streamers import Habits, Streamer

if TYPE_CHECKING:
    from simulation.machine import Machine

__all__ = ["Settling"]

_TURNS_MAX = 10_000
"""Until one thing comes true."""
_A_LONG_TIME_S = 3 * 3600


class Settling:
    """The end of a schedule: faults stop, everything completes, and nothing runs again."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine

    def run(self) -> None:
        self._machine.stop_faults()
        controls = [peer for peer in self._machine.peers if isinstance(peer, Control)]
        self._turn_until(lambda: all(peer.is_done for peer in controls), "every request is answered")
        self._everybody_comes_back()
        self._turn_until(self._is_done, "every buffer ends that is sealed, every message is settled")
        if unsealed := self._unsealed():
            self._streams_wait(unsealed)
            self._streams_end(unsealed)
            self._turn_until(lambda: self._is_done() and not self._unsealed(), "every stream ends")
        self._machine.model.check()
        self._forget_what_never_opened()
        self._stop()
        self._machine.model.check_end()
        self._nothing_runs_again()

    def _everybody_comes_back(self) -> None:
        """Somebody resumes what is paused, and reads every mailbox that there is or will be."""
        for buffer_id in sorted({one.content.buffer_id for one in self._machine.producers}):
            self._machine.control("resume", buffer_id)
        names = {peer.mailbox for peer in self._machine.peers if peer.mailbox is not None}
        for name in sorted(names - {peer.mailbox for peer in self._correspondents()}):
            self._machine.correspond(name, [])

    def _correspondents(self) -> list[Correspondent]:
        return [peer for peer in self._machine.peers if isinstance(peer, Correspondent) and not peer.is_done]

    def _is_done(self) -> bool:
        """All is done that has come: of a stream that nobody has sealed each item has its result."""
        supervisor = self._machine.supervisor
        if supervisor is None or any(
            buffer.sealed or buffer.recorded < buffer.total for buffer in supervisor.state.buffers.values()
        ):
            return False
        if not all(peer.is_done or isinstance(peer, Correspondent) for peer in self._machine.peers):
            return False
        if not all(peer.has_sent_all for peer in self._correspondents()):
            return False
        return not self._machine.model.query("SELECT 1 FROM message WHERE settled_commit IS NULL LIMIT 1")

    def _unsealed(self) -> list[Streamer]:
        """A producer of each stream that is open and waits for more."""
        query = "SELECT buffer_id FROM buffer WHERE opened_commit IS NOT NULL AND ended_commit IS NULL"
        waiting = {buffer_id for (buffer_id,) in self._machine.model.query(query)}
        producers = {streamer.content.buffer_id: streamer for streamer in self._machine.streamers}
        return [producers[buffer_id] for buffer_id in sorted(waiting & producers.keys())]

    def _streams_wait(self, unsealed: list[Streamer]) -> None:
        """However long nobody comes to go on with a stream, it is there."""
        if self._machine.world.chance(0.5):
            self._machine.world.run_until(self._machine.world.now_ns + int(_A_LONG_TIME_S * 1e9))
            for _ in range(3):
                self._machine.turn()
        self._machine.model.check()
        ended_early = self._machine.model.told.ended_early  # by its deadline
        waiting = [one for one in unsealed if not ended_early(one.content.buffer_id)]
        if self._unsealed() != waiting:
            raise Violation(f"of {[one.content.buffer_id for one in unsealed]} some do not wait any more")

    def _streams_end(self, unsealed: list[Streamer]) -> None:
        """Somebody comes and seals a stream, or cancels it."""
        for streamer in unsealed:
            if self._machine.world.chance(0.7):
                self._machine.stream(streamer.content, Habits(), 0.0, streamer.mailbox)
            else:
                self._machine.control("cancel", streamer.content.buffer_id)

    def _turn_until(self, done: Callable[[], bool], what: str) -> None:
        deadline_ns = self._machine.world.now_ns + int(1200e9)
        turns = self._machine.turns
        while not done():
            if self._machine.world.now_ns > deadline_ns or self._machine.turns - turns > _TURNS_MAX:
                raise Violation(f"it never came true: {what}; {self._what_is_left()}")
            self._machine.turn()
            self._somebody_resumes()

    def _somebody_resumes(self) -> None:
        """What is paused, whenever nobody asks for anything just now: a budget may be reached again."""
        busy = any(isinstance(peer, Control) and not peer.is_done for peer in self._machine.peers)
        for buffer_id in [] if busy else self._machine.paused():
            self._machine.control("resume", buffer_id)

    def _what_is_left(self) -> str:
        clients = [peer.name for peer in self._machine.peers if not peer.is_done]
        buffers = [*self._machine.supervisor.state.buffers.values()] if self._machine.supervisor else []
        messages = self._machine.model.query(
            "SELECT message_id, to_id FROM message WHERE settled_commit IS NULL"
        )
        return f"clients {clients}, messages {messages}, buffers {buffers}"

    def _stop(self) -> None:
        self._machine.signal("stop")
        self._turn_until(lambda: self._machine.supervisor is None, "the supervisor stops when it is asked to")

    def _forget_what_never_opened(self) -> None:
        """Clients that have vanished leave starts behind; an hour later no trace of them is left."""
        traces = "SELECT 1 FROM buffer WHERE opened_commit IS NULL LIMIT 1"
        if self._machine.model.query(traces):
            self._machine.world.run_until(self._machine.world.now_ns + int(_A_LONG_TIME_S * 1e9))
            self._turn_until(lambda: not self._machine.model.query(traces), "what never opened is forgotten")

    def _nothing_runs_again(self) -> None:
        """Another start on a journal where everything is done hands nothing out."""
        before = self._machine.model.dispatched
        rows = self._machine.model.query("SELECT * FROM result ORDER BY item_key")
        self._turn_until(
            lambda: self._machine.supervisor is not None and bool(self._machine.supervisor.state.listeners),
            "it starts",
        )
        for _ in range(3):
            self._machine.turn()
        self._stop()
        if self._machine.model.dispatched != before or rows != self._machine.model.query(
            "SELECT * FROM result ORDER BY item_key"
        ):
            raise Violation("a start on a finished journal has run something")
        self._machine.model.check_end()
