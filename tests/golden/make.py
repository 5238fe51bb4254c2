"""Make the golden journal of the schema version that is the newest now: `python tests/golden/make.py`.

Once, when a schema version is final; it is never made again, because what matters is that an old one can be
read. It is the journal of tests/eventful.py, closed cleanly, without free pages, compressed.
"""

import gzip
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent.parent)]

import eventful  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        eventful.make(folder / "journal.db", folder)
        with closing(sqlite3.connect(folder / "journal.db")) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute("VACUUM INTO ?", (str(folder / "small.db"),))
        data = (folder / "small.db").read_bytes()
    target = FOLDER / f"v{version}.journal.gz"
    target.write_bytes(gzip.compress(data, 9, mtime=0))
    sys.stderr.write(f"{target}: {target.stat().st_size:,} bytes of {len(data):,}\n")


if __name__ == "__main__":
    main()
