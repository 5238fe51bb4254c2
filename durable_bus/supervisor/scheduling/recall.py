"""Taking back what a worker holds and has not started: for an idle one, for a stop, a reload, a pause or a
cancel, and because it does not begin it.

Three steps, each in a turn of its own. A worker is given a limit, an ordinal from which on it may start
nothing, and after that commit the limit is set in its slot. In the next turn what it has not started by then
is read from the slot and goes back to its buffers. When the worker comes to the limit it throws the rest away
and says so; only then it may get something again, because frames that were withdrawn may still lie in its
pipe. Meanwhile the limit may only go down.
"""

from durable_bus.supervisor.io.clock import Clock
from durable_bus.supervisor.outbox import Outbox
from durable_bus.supervisor.ports import ORDINAL_MAX, Pool
from durable_bus.supervisor.scheduling import rules as scheduling
from durable_bus.supervisor.scheduling.dispatcher import Dispatcher
from durable_bus.supervisor.scheduling.leases import Hand
from durable_bus.supervisor.scheduling.message_dispatcher import Post
from durable_bus.supervisor.scheduling.rules import WATCHED_S, Load

__all__ = ["Withdrawal"]


class Withdrawal:
    """Sets limits, takes back, and lets workers go."""

    def __init__(self, dispatcher: Dispatcher, pool: Pool, post: Post, clock: Clock, outbox: Outbox) -> None:
        self._dispatcher = dispatcher
        self._pool = pool
        self._post = post
        self._clock = clock
        self._outbox = outbox
        self.stopping = False
        """Nobody gets anything again in this run."""
        self._watched: dict[int, tuple[int, int, int]] = {}
        """Workers that hold what they have not begun while another one idles: since when, how much they had
        begun when last seen, and since when it is that much. Monotonic, ns.
        """
        self.look_again_s: float | None = None
        """In so many seconds there may be something to take for an idle worker; None: not by itself."""

    def withdraw(self, hand: Hand, limit: int = 0) -> None:
        """Tell a worker to start nothing more of what it holds, or nothing from an ordinal on."""
        if hand.unanswered and limit < hand.limit:
            self._dispatcher.hands[hand.worker_id] = hand._replace(limit=limit)

    def withdraw_all(self) -> None:
        for hand in self._dispatcher.hands.values():
            self.withdraw(hand)

    def withdraw_buffer(self, buffer_seq: int) -> None:
        """From every worker that holds items of this buffer."""
        for worker_id in {
            h.worker_id for h in self._dispatcher.in_hand.values() if h.buffer_seq == buffer_seq
        }:
            self.withdraw(self._dispatcher.hands[worker_id])

    def let_go(self, worker_id: int) -> None:
        """It gets nothing more; when it has answered what it started, its process ends."""
        hand = self._dispatcher.hands.get(worker_id)
        if hand is not None and not hand.leaving:
            self._dispatcher.hands[worker_id] = hand._replace(
                leaving=True, limit=0 if hand.unanswered else hand.limit
            )

    def take_back(self) -> None:
        """Give back what withdrawn workers have not started; end the processes of those who are let go."""
        for hand in self._dispatcher.hands.values():
            if hand.limit == hand.taken:
                continue
            slot = self._pool.slot(hand.worker_id)
            if slot.limit != hand.limit:
                continue
            # The worker says "started" before it looks at the limit: what it may still run counts as started.
            boundary = max(slot.limit, slot.started)
            self._put_back(hand.worker_id, boundary)
            hand = self._dispatcher.hands[hand.worker_id]
            self._dispatcher.hands[hand.worker_id] = hand._replace(taken=hand.limit)
            if hand.begun(boundary) >= hand.next_ordinal:
                self._end(hand.worker_id)
        for hand in self._dispatcher.hands.values():
            if hand.leaving and hand.unanswered == 0:
                self._outbox.kill(hand.worker_id)

    def discarded(self, worker_id: int, first_ordinal: int, end_ordinal: int) -> None:
        """A worker has thrown away what it was told not to start."""
        self._put_back(worker_id, first_ordinal, end_ordinal)
        hand = self._dispatcher.hands.get(worker_id)
        if hand is not None:
            # Kept, as it is said once: who is withdrawn again before its limit is lifted has nothing to say.
            self._dispatcher.hands[worker_id] = hand._replace(discarded_to=end_ordinal)
            if hand.withdrawn and end_ordinal >= hand.next_ordinal:
                self._end(worker_id)

    def _put_back(self, worker_id: int, from_ordinal: int, end_ordinal: int = ORDINAL_MAX) -> None:
        for message in self._dispatcher.take_back(worker_id, from_ordinal, end_ordinal):
            self._post.put_back(message.message_seq, message.listener)

    def _end(self, worker_id: int) -> None:
        hand = self._dispatcher.hands.get(worker_id)
        if hand is not None and not self.stopping and not hand.leaving:
            self._dispatcher.hands[worker_id] = hand._replace(limit=ORDINAL_MAX, taken=ORDINAL_MAX)

    def adjust_limits(self) -> None:
        """After the commit: set the slots of workers that may start nothing more, or may again."""
        for hand in self._dispatcher.hands.values():
            slot = self._pool.slot(hand.worker_id)
            if slot.limit != hand.limit:
                slot.limit = hand.limit

    @property
    def is_pending(self) -> bool:
        """Somebody was told to start nothing more, and the next turn takes back what that leaves."""
        return any(hand.limit != hand.taken for hand in self._dispatcher.hands.values())

    # For an idle worker

    def help_idle(self) -> None:
        """When workers idle while others hold what they will not start soon: take some of that back."""
        idle = [hand for hand in self._dispatcher.hands.values() if self._is_idle(hand)]
        before, self._watched, self.look_again_s = self._watched, {}, None
        loads = self._loads(before) if idle else []
        if not self._watched:
            return
        tables = [(hand.listeners or {}).__contains__ for hand in idle]
        taken, self.look_again_s = scheduling.thefts(tables, loads)
        if len(loads) < len(self._watched):
            # Somebody was given something just now, of which nothing is taken yet.
            self.look_again_s = WATCHED_S if self.look_again_s is None else min(self.look_again_s, WATCHED_S)
        for theft in taken:
            hand = self._dispatcher.hands[theft.worker_id]
            self.withdraw(hand, self._watched[theft.worker_id][1] + theft.keep)

    def _is_idle(self, hand: Hand) -> bool:
        busy = hand.unanswered or hand.leaving or hand.withdrawn
        return bool(hand.listeners and not busy and self._dispatcher.room(hand))

    def _loads(self, before: dict[int, tuple[int, int, int]]) -> list[Load]:
        """Workers that hold something they have not begun. Those that were given something in this turn are
        only watched from now on.
        """
        now_ns = self._clock.monotonic_ns()
        loads = []
        for hand in self._dispatcher.hands.values():
            if not hand.unanswered or hand.exclusive or hand.limit == 0:
                continue
            slot = self._pool.slot(hand.worker_id)
            begun = hand.begun(slot.started)
            unbegun = min(hand.next_ordinal, hand.limit) - begun
            if unbegun <= 0:
                continue
            since_ns, begun_before, stalled_ns = before.get(hand.worker_id, (now_ns, begun, now_ns))
            if begun != begun_before:
                stalled_ns = now_ns
            self._watched[hand.worker_id] = (since_ns, begun, stalled_ns)
            if hand.worker_id in self._dispatcher.given:
                continue
            last = self._dispatcher.in_hand[hand.held[-1]]
            settings = (hand.listeners or {}).get(last.listener)
            loads.append(
                Load(
                    hand.worker_id,
                    last.listener,
                    unbegun,
                    (self._dispatcher.paces.item_us(last.listener) or 0.0)
                    / (settings.concurrency if settings else 1),
                    runs=slot.since_ns != 0,
                    stalled_s=(now_ns - stalled_ns) / 1e9,
                    watched_s=(now_ns - since_ns) / 1e9,
                )
            )
        return loads
