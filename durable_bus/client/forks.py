"""What becomes of a client in a process that is forked from its own: with `multiprocessing`'s fork, or by a
server that loads a program before it forks its workers.

The copy has the parent's socket, whose frames are the parent's; no thread that reads it; and locks that the
parent's threads may have held. A forked client does nothing to its parent's.
"""

import os
import weakref
from collections.abc import Iterable
from typing import Protocol

__all__ = ["ForkedWith", "Lock", "when_forked"]

_PATIENCE_S = 1.0
"""How long a fork waits for a reader: it may itself be what a signal's handler does in the middle of one."""


class Lock(Protocol):
    def acquire(self, *, timeout: float) -> bool: ...

    def release(self) -> None: ...


class ForkedWith(Protocol):
    def locks(self) -> Iterable[Lock]:
        """Whoever is in SQLite holds one of these: what that holds then, a child would hold for good."""

    def after_fork(self) -> None:
        """In the child, where no other thread is."""


_here: "weakref.WeakSet[ForkedWith]" = weakref.WeakSet()
_held: list[Lock] = []


def when_forked(one: ForkedWith) -> None:
    """Let this know of it in a child, as long as it lives."""
    _here.add(one)


def _before() -> None:
    for one in list(_here):
        _held.extend(lock for lock in one.locks() if lock.acquire(timeout=_PATIENCE_S))


def _in_parent() -> None:
    for lock in _held:
        lock.release()
    _held.clear()


def _in_child() -> None:
    _in_parent()
    for one in list(_here):
        one.after_fork()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
