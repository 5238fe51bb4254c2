"""Databases as a kill in the middle of a change leaves them: with SQLite's rollback journal beside them."""

import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

from support import outcome, program

from durable_bus.journal.connection import PAGE_BYTES

_MAKES_A_JOURNAL = """
import resource, signal, sys
from pathlib import Path
from durable_bus.journal.journal import Journal
bytes_max = int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # it dies of writing beyond that
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, bytes_max))
Journal.open(Path(sys.argv[1]))
"""

HALF_MADE = {"page": PAGE_BYTES // 2, "log": 8 * PAGE_BYTES}
"""Which file is cut short: the journal, put into WAL mode by its first page; or its -wal, into which its
schema goes. And how many bytes a file may have for that: the -shm has 32 KiB.
"""


def make_half_a_journal(journal: Path, half: str, programs: Path) -> None:
    """Kill who makes `journal`, at one of HALF_MADE. `programs`: a folder for its program."""
    making = program(programs / "making.py", _MAKES_A_JOURNAL, str(journal), str(HALF_MADE[half]))
    assert outcome(making)[0] == -signal.SIGXFSZ
    assert _is_cut_short(journal) == (half == "page")


def cut_short(database: Path, scratch: Path) -> None:
    """Leave `database` as a kill does that comes in the middle of a large change of it."""
    written = scratch / "written.db"
    shutil.copy(database, written)
    with closing(sqlite3.connect(written, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")  # so that it is written before its end
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE half (done)")
        connection.execute("INSERT INTO half VALUES (zeroblob(1000000))")
        for suffix in ("", "-journal"):
            shutil.copy(f"{written}{suffix}", f"{database}{suffix}")
            os.chmod(f"{database}{suffix}", 0o600)
    assert _is_cut_short(database)


def _is_cut_short(database: Path) -> bool:
    """Whether SQLite lets nobody read it who may not write."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as reader:
        try:
            reader.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError as error:
            return error.sqlite_errorname == "SQLITE_READONLY_ROLLBACK"
    return False
