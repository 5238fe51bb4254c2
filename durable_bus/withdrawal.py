"""Taking back what a worker holds and has not started: for an idle one, for a stop, a reload, a pause or a
cancel.

Three steps, each in a turn of its own. A worker is marked withdrawn, and after that commit the limit in its
slot is set: it starts nothing more. In the next turn what it has not started is read from the slot and goes
back to its buffers. When the worker comes to the limit it throws the rest away and says so; only then it may
get something again, because frames that were withdrawn may still lie in its pipe.
"""

from durable_bus.dispatch import Dispatcher
from durable_bus.hands import Hand
from durable_bus.lateness import Lateness
from durable_bus.outbox import Outbox
from durable_bus.ports import ORDINAL_MAX, Pool
from durable_bus.post import Post

__all__ = ["STEAL_AFTER_US", "Withdrawal"]

STEAL_AFTER_US = 20_000
"""What a worker has not started is taken back when it would still wait this long while another one idles."""


class Withdrawal:
    """Sets limits, takes back, and lets workers go."""

    def __init__(
        self, dispatcher: Dispatcher, pool: Pool, post: Post, lateness: Lateness, outbox: Outbox
    ) -> None:
        self._dispatcher = dispatcher
        self._pool = pool
        self._post = post
        self._lateness = lateness
        self._outbox = outbox
        self.stopping = False
        """Nobody gets anything again in this run."""

    def withdraw(self, hand: Hand) -> None:
        """Tell a worker to start nothing more of what it holds."""
        if not hand.withdrawn and hand.unanswered:
            self._dispatcher.hands[hand.worker_id] = hand._replace(withdrawn=True)

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
            withdrawn = hand.withdrawn or hand.unanswered > 0
            self._dispatcher.hands[worker_id] = hand._replace(leaving=True, withdrawn=withdrawn)

    def take_back(self) -> None:
        """Give back what withdrawn workers have not started; end the processes of those who are let go."""
        for hand in self._dispatcher.hands.values():
            slot = self._pool.slot(hand.worker_id)
            if not hand.withdrawn or hand.taken or slot.limit == ORDINAL_MAX:
                continue
            # The worker says "started" before it looks at the limit: what it may still run counts as started.
            boundary = max(slot.limit, slot.started)
            self._put_back(hand.worker_id, boundary)
            self._dispatcher.hands[hand.worker_id] = self._dispatcher.hands[hand.worker_id]._replace(
                taken=True
            )
            if max(boundary, hand.discarded_to) >= hand.next_ordinal:
                self._end(hand.worker_id)
        for hand in self._dispatcher.hands.values():
            if hand.leaving and hand.unanswered == 0:
                self._outbox.kill(hand.worker_id)

    def discarded(self, worker_id: int, first_ordinal: int, end_ordinal: int) -> None:
        """A worker has thrown away what it was told not to start."""
        self._put_back(worker_id, first_ordinal)
        hand = self._dispatcher.hands.get(worker_id)
        if hand is not None:
            # Kept, as it is said once: who is withdrawn again before its limit is lifted has nothing to say.
            self._dispatcher.hands[worker_id] = hand._replace(discarded_to=end_ordinal)
            if hand.withdrawn and end_ordinal >= hand.next_ordinal:
                self._end(worker_id)

    def _put_back(self, worker_id: int, from_ordinal: int) -> None:
        for message in self._dispatcher.take_back(worker_id, from_ordinal):
            self._post.put_back(message.message_seq, message.listener)

    def _end(self, worker_id: int) -> None:
        hand = self._dispatcher.hands.get(worker_id)
        if hand is not None and not self.stopping and not hand.leaving:
            self._dispatcher.hands[worker_id] = hand._replace(withdrawn=False, taken=False)

    def adjust_limits(self) -> None:
        """After the commit: set the slots of workers that may start nothing more, or may again."""
        for hand in self._dispatcher.hands.values():
            slot = self._pool.slot(hand.worker_id)
            if hand.withdrawn and slot.limit == ORDINAL_MAX:
                slot.limit = slot.started
            elif not hand.withdrawn and slot.limit != ORDINAL_MAX:
                slot.limit = ORDINAL_MAX

    @property
    def is_pending(self) -> bool:
        """Somebody was told to start nothing more, and the next turn takes back what that leaves."""
        return any(hand.withdrawn and not hand.taken for hand in self._dispatcher.hands.values())

    # For an idle worker

    def help_idle(self) -> None:
        """When a worker idles while another holds what it will not start soon: take that back."""
        idle = self._idle()
        victim = self._victim(STEAL_AFTER_US) if idle else None
        if idle is not None and victim is not None:
            last = self._dispatcher.held_by(victim.worker_id)[-1]
            if last.listener in (idle.listeners or {}):
                self.withdraw(victim)

    def may_help_soon(self) -> bool:
        """A worker idles, and another holds something that it may not start soon enough."""
        return self._idle() is not None and self._victim(0) is not None

    def _idle(self) -> Hand | None:
        for hand in self._dispatcher.hands.values():
            busy = hand.unanswered or hand.leaving or hand.withdrawn
            if hand.listeners and not busy and self._dispatcher.room(hand):
                return hand
        return None

    def _victim(self, at_least_us: int) -> Hand | None:
        """The worker with the most that it has not started and will not soon."""
        best: Hand | None = None
        most = 0
        for hand in self._dispatcher.hands.values():
            if hand.unanswered < 2 or hand.withdrawn or hand.exclusive:
                continue
            # What it has thrown away it will not start, and holds no more.
            begun = max(self._pool.slot(hand.worker_id).started, hand.discarded_to)
            unstarted = hand.next_ordinal - begun
            if unstarted <= most:
                continue
            running = self._lateness.running(hand)
            last = self._dispatcher.held_by(hand.worker_id)[-1]
            waits_us = unstarted * self._dispatcher.paces.item_us(last.listener)
            if max(waits_us, running.seconds * 1e6 if running else 0.0) >= at_least_us:
                best, most = hand, unstarted
        return best
