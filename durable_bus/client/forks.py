"""What becomes of a client in a process that is forked from its own: with `multiprocessing`'s fork, or by a
server that loads a program before it forks its workers.

The copy has the parent's socket, whose frames are the parent's; no thread that reads it; and locks that the
parent's threads may have held. A forked client does nothing to its parent's.
"""

import os
import weakref
from typing import Protocol

__all__ = ["ForkedWith", "when_forked"]


class ForkedWith(Protocol):
    def after_fork(self) -> None:
        """In the child, where no other thread is."""


_here: "weakref.WeakSet[ForkedWith]" = weakref.WeakSet()


def when_forked(one: ForkedWith) -> None:
    """Let this know of it in a child, as long as it lives."""
    _here.add(one)


def _in_child() -> None:
    for one in list(_here):
        one.after_fork()


os.register_at_fork(after_in_child=_in_child)
