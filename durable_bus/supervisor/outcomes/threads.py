"""Threads: an id, and behind it the chain of hops it has come along.

A hop is a name (a listener or a mailbox) or an item of a buffer. The last hop is who the thread is with.
There is one rule for responses: drop your own hop, deliver to what is then last; an item means the collector.
Items need no row: the thread of item 3 of buffer b1 on thread T is `T/b1/3`, the same at every attempt, and
its chain follows from the buffer's.
"""

import json
from typing import NamedTuple

from durable_bus.journal.journal import Journal
from durable_bus.payloads.messages import check_name

__all__ = [
    "CHAIN_HOPS_MAX",
    "THREAD_MESSAGES_MAX",
    "Chain",
    "Hop",
    "ItemHop",
    "extend",
    "limit_reached",
    "lookup",
    "respond",
    "set_chain",
]


CHAIN_HOPS_MAX = 1_000
"""Longest chain. A conversation that grows beyond it goes round in circles, and is ended as `routing`."""
THREAD_MESSAGES_MAX = 10_000
"""After so many messages on one thread nothing more is forwarded or started on it: a conversation whose
answers always come back, and are never the last, does not grow its chain, and is ended here, as `routing`
too. Each item has a thread of its own.
"""


class ItemHop(NamedTuple):
    """An item of a buffer, as a station of a thread."""

    buffer_id: str
    item_index: int


Hop = str | ItemHop


class Chain(NamedTuple):
    """The hops of a thread, the first one first."""

    hops: tuple[Hop, ...] = ()

    @property
    def last(self) -> Hop | None:
        return self.hops[-1] if self.hops else None

    def extended(self, hop: Hop) -> "Chain":
        return Chain((*self.hops, hop))

    def handed_to(self, name: str) -> "Chain":
        """The last name replaced: a BufferComplete that returns to somebody else than the starter."""
        return Chain((*self.hops[:-1], name)) if isinstance(self.last, str) else self.extended(name)

    def down_to_item(self) -> "Chain | None":
        """The chain cut after its nearest item; None when there is none below."""
        for length in range(len(self.hops), 0, -1):
            if isinstance(self.hops[length - 1], ItemHop):
                return Chain(self.hops[:length])
        return None

    def dump(self) -> str:
        return json.dumps(self.hops)  # an item is [buffer_id, index]

    @classmethod
    def parse(cls, text: str) -> "Chain":
        return cls(tuple(hop if isinstance(hop, str) else ItemHop(*hop) for hop in json.loads(text)))


def lookup(journal: Journal, thread_id: str) -> Chain | None:
    """The chain behind a thread id, None when there is no such thread."""
    text = journal.messages.chain(thread_id)
    return _of_item(journal, thread_id) if text is None else Chain.parse(text)


def _of_item(journal: Journal, thread_id: str) -> Chain | None:
    """An item's thread is its buffer's, with its index behind it. It is written when it first changes."""
    buffer_thread_id, _, index = thread_id.rpartition("/")
    buffer_id = buffer_thread_id.rpartition("/")[2]
    below = journal.messages.chain(buffer_thread_id)
    row = journal.buffers.by_id(buffer_id) if below is not None and index.isdecimal() else None
    if below is None or row is None or row.thread_id != buffer_thread_id:
        return None
    return Chain.parse(below).extended(ItemHop(buffer_id, int(index))).extended(row.target)


def _known(journal: Journal, thread_id: str) -> Chain:
    chain = lookup(journal, thread_id)
    if chain is None:
        raise KeyError(f"no thread {thread_id}")
    return chain


def extend(journal: Journal, thread_id: str, name: str) -> Chain:
    """Append a hop: the thread is now with `name`. `system.*` is never a hop."""
    check_name(name, "hop")
    chain = _known(journal, thread_id).extended(name)
    set_chain(journal, chain, thread_id)
    return chain


def respond(journal: Journal, thread_id: str) -> Chain:
    """Drop the last hop: whoever had the thread has responded. Its new last hop is who gets the response."""
    chain = Chain(_known(journal, thread_id).hops[:-1])
    set_chain(journal, chain, thread_id)
    return chain


def limit_reached(journal: Journal, thread_id: str) -> str | None:
    """Why nothing more may be forwarded or started on a thread, None while it may. Two listeners that ask
    each other, or buffers nested for ever, must end somewhere.
    """
    chain = lookup(journal, thread_id)
    if chain is not None and len(chain.hops) >= CHAIN_HOPS_MAX:
        return f"this thread has {len(chain.hops)} hops already, the limit is {CHAIN_HOPS_MAX}"
    messages = journal.messages.count_on_thread(thread_id, THREAD_MESSAGES_MAX)
    if messages >= THREAD_MESSAGES_MAX:
        return f"this thread has {messages} messages already, the limit is {THREAD_MESSAGES_MAX}"
    return None


def set_chain(journal: Journal, chain: Chain, *thread_ids: str) -> None:
    """Each of these threads, new or not, has come along this chain."""
    journal.messages.set_chain(chain.dump(), *thread_ids)
