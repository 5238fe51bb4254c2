"""Make the golden journal of the schema version that is the newest now: `python tests/golden/make.py`.

Once, when a schema version is final; it is never made again, because what matters is that an old one can be
read. It is the journal of tests/eventful.py, and of a run with limits, budgets, ends and memos after it, of
which one buffer's items ran elsewhere and one was started by a client that traces, closed cleanly, without
free pages, compressed.
"""

import gzip
import os
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent.parent)]

import eventful  # noqa: E402
from apps import pace  # noqa: E402
from support import Facts  # noqa: E402


def paced(journal: Path) -> None:
    """A run under limits: what came back, what was given again, each end, and a budget that is spent."""
    os.environ["PACE_STARTS"] = str(journal.with_name("starts"))
    with pace.bus.running(journal, workers=1) as client:
        client.set_limit("few", running=2)
        client.start("returns", [0.05, 0, 0], buffer_id="returned").wait(60)
        client.start("asks", [{"n": 1}, {"n": 2}, {"n": 1}], buffer_id="asked").wait(60)
        client.start("few", list(range(20)), buffer_id="enough", enough=2).wait(60)
        client.start("fails", [1, 3, 5, 7], buffer_id="too-many", max_failures=1).wait(60)
        client.start("rare", [1, 2, 3], buffer_id="late", deadline=0.5).wait(60)
        client.start("spends", [0.5, 2, 0.5, 0.5], buffer_id="dear", budget={"usd": 3})
        Facts(journal).until("SELECT paused_why = 'budget' FROM buffers WHERE buffer_id = 'dear'")
        Facts(journal).until("SELECT count(*) = 0 FROM in_flight WHERE buffer_id = 'dear'")


ELSEWHERE = (
    "UPDATE dispatch SET place = 'dask:tcp://10.0.0.1:8786' WHERE buffer_seq = :buffer",
    "UPDATE answer SET place = 'node7:4711' WHERE buffer_seq = :buffer AND dispatch_id IS NOT NULL",
    "UPDATE failure SET place = 'node7:4711' WHERE item_key >> 32 = :buffer",
)
"""No engine runs here: the rows of one buffer are made what an engine's would be."""
TRACED = (
    "UPDATE buffer SET traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'"
    " WHERE buffer_seq = :buffer"
)
"""Nor does anybody trace."""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        eventful.make(folder / "journal.db", folder)
        paced(folder / "journal.db")
        with closing(sqlite3.connect(folder / "journal.db")) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (buffer,) = connection.execute(
                "SELECT buffer_seq FROM buffer WHERE buffer_id = 'returned'"
            ).fetchone()
            for sql in (*ELSEWHERE, TRACED):
                assert connection.execute(sql, {"buffer": buffer}).rowcount > 0
            connection.commit()
            connection.execute("VACUUM INTO ?", (str(folder / "small.db"),))
        data = (folder / "small.db").read_bytes()
    target = FOLDER / f"v{version}.journal.gz"
    target.write_bytes(gzip.compress(data, 9, mtime=0))
    sys.stderr.write(f"{target}: {target.stat().st_size:,} bytes of {len(data):,}\n")


if __name__ == "__main__":
    main()
