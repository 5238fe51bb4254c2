"""The slot: a page of memory that a worker and the supervisor share.

Four of its words are used, each aligned and eight bytes long, so that one store or load is never torn on any
machine that Linux and CPython run on. A word is written by one side only.

Whatever a worker is given has an ordinal: 0 for the first item it ever gets, and so on.
"""

import mmap

from durable_bus.wire.memory_file import memory_file

__all__ = ["CURRENT", "LIMIT", "ORDINAL_MAX", "SINCE", "SLOT_BYTES", "STARTED", "Slot", "slot_memory"]

ORDINAL_MAX = (1 << 63) - 1
SLOT_BYTES = 4096
STARTED, SINCE, LIMIT, CURRENT = 0, 1, 2, 3
"""What they mean: see the properties, which cost more than an item may: a worker uses `Slot.words`."""


def slot_memory() -> int:
    """A descriptor of the memory for a slot, all of it 0. The caller closes it. Raises OSError when there is
    no room.
    """
    # Written: whoever touches a page for which there is no room would be killed.
    return memory_file("durable_bus slot", bytes(SLOT_BYTES))


class Slot:
    """The slot on a descriptor of `SLOT_BYTES` bytes of memory that both processes have."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, SLOT_BYTES)
        self.words: memoryview[int] = memoryview(self._memory).cast("q")

    def keep_last(self) -> None:
        """Its worker is gone: keep the last words, and let go of the page, which holds a descriptor open."""
        shared, self.words = self.words, memoryview(bytearray(self.words[: CURRENT + 1])).cast("q")
        shared.release()
        self._memory.close()

    @property
    def started(self) -> int:
        """How many ordinals the worker has started, the last of them `started - 1`. Written by the worker."""
        return self.words[STARTED]

    @property
    def since_ns(self) -> int:
        """When it started that one (sync), or last began a step or turned its loop (async); 0: idle."""
        return self.words[SINCE]

    @property
    def current(self) -> int:
        """The ordinal, plus one, of the async item, given up or not, whose step runs now; 0: none."""
        return self.words[CURRENT]

    @property
    def limit(self) -> int:
        """The first ordinal it may not start. Written by the supervisor."""
        return self.words[LIMIT]

    @limit.setter
    def limit(self, ordinal: int) -> None:
        self.words[LIMIT] = ordinal
