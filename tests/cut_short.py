"""Databases as a kill in the middle of a change leaves them: with SQLite's rollback journal beside them."""

import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

from support import outcome, program

_MAKES_HALF_A_JOURNAL = """
import resource, signal, sys
from pathlib import Path
from durable_bus.journal.connection import PAGE_BYTES, open_writer
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # it dies of writing the second half of the first page
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE_BYTES // 2, PAGE_BYTES // 2))
open_writer(Path(sys.argv[1]))
"""


def make_half_a_journal(journal: Path, programs: Path) -> None:
    """Kill who makes `journal` while it is put into WAL mode. `programs`: a folder for its program."""
    making = program(programs / "making.py", _MAKES_HALF_A_JOURNAL, str(journal))
    assert outcome(making)[0] == -signal.SIGXFSZ
    assert _is_cut_short(journal)


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
