"""What becomes of a client in a process that is forked from its own: with `multiprocessing`'s fork, or by a
server that loads a program before it forks its workers.

The copy has the parent's socket, whose frames are the parent's; no thread that reads it; and locks that the
parent's threads may have held. A forked client does nothing to its parent's.
"""

import os
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

__all__ = ["Lock", "when_forked"]

_PATIENCE_S = 1.0
"""How long a fork waits for a reader: it may itself be what a signal's handler does in the middle of one."""


class Lock(Protocol):
    def acquire(self, *, timeout: float) -> bool: ...

    def release(self) -> None: ...


One = TypeVar("One")
_here: "weakref.WeakKeyDictionary[Any, tuple[Callable[[Any], None], Callable[[Any], Iterable[Lock]]]]"
_here = weakref.WeakKeyDictionary()
_held: list[Lock] = []


def when_forked(
    one: One, after_fork: Callable[[One], None], locks: Callable[[One], Iterable[Lock]] = lambda one: ()
) -> None:
    """Call `after_fork` of this in a child, where no other thread is, as long as it lives.

    `locks`: whoever is in SQLite holds one of these. What that holds then, a child would hold for good.
    """
    _here[one] = after_fork, locks


def _before() -> None:
    for one, (_, locks) in list(_here.items()):
        _held.extend(lock for lock in locks(one) if lock.acquire(timeout=_PATIENCE_S))


def _in_parent() -> None:
    for lock in _held:
        lock.release()
    _held.clear()


def _in_child() -> None:
    _in_parent()
    for one, (after_fork, _) in list(_here.items()):
        after_fork(one)


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
