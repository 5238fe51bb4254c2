"""Who holds the write-ahead log back: named from /proc/locks, without opening anything.

A reader marks the log's end that it sees with a POSIX read lock on one of the bytes 123 to 127 of the -shm
file (https://www.sqlite.org/walformat.html, "WAL locks"). As long as it is inside a transaction, or in the
middle of a SELECT, the log behind its mark cannot be checkpointed, and grows with every commit. Nothing is
lost by that; it shrinks when the reader ends.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple

__all__ = ["WalReader", "wal_readers"]

_FIRST_READ_BYTE = 123
_LAST_READ_BYTE = 127
_LOOK_AGAIN_S = 0.05


class WalReader(NamedTuple):
    """A process that has been reading for a while. `pid` is 0 when it is in another container."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})" if self.pid else "a process outside this container"


def wal_readers(journal: str | Path) -> list[WalReader]:
    """Processes that hold the log back now: readers that two looks, 50 ms apart, find at the same mark.

    Our own process is left out, and so is whoever only passes by. Empty where there is no /proc/locks.
    """
    try:
        shm = os.stat(f"{os.path.realpath(journal)}-shm")
    except OSError:
        return []
    first = _reading(shm)
    if not first:
        return []
    time.sleep(_LOOK_AGAIN_S)
    lasting = sorted({pid for pid, _ in first & _reading(shm)})
    return [WalReader(pid, _command(pid)) for pid in lasting]


def _reading(shm: os.stat_result) -> set[tuple[int, int]]:
    """(pid, byte) of each read mark. A line: `7: POSIX  ADVISORY  READ 27446 fe:00:2179775 124 124`."""
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return set()
    found = set()
    for line in lines:
        fields = line.split()
        if len(fields) != 8 or fields[1] != "POSIX" or fields[3] != "READ" or fields[7] == "EOF":
            continue
        # By inode alone where several file systems are one on top of the other: their device differs there.
        major, minor, inode = fields[5].split(":")
        device = os.makedev(int(major, 16), int(minor, 16))
        if int(inode) != shm.st_ino or (device != shm.st_dev and os.major(shm.st_dev) != 0):
            continue
        pid, start, end = int(fields[4]), int(fields[6]), int(fields[7])
        if start >= _FIRST_READ_BYTE and end <= _LAST_READ_BYTE and pid != os.getpid():
            found.add((max(pid, 0), start))
    return found


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "its command cannot be read"
    return b" ".join(words).decode(errors="replace").strip()[:200] or "without a command line"
