"""The golden journal, for tests of every byte or every statement: the same wherever they run."""

import gzip
from contextlib import closing
from pathlib import Path

from durable_bus.journal.connection import SCHEMA_VERSION, open_writer
from durable_bus.journal.schema import upgrade

GOLDEN = Path(__file__).resolve().parent / "golden"


def golden_journal(path: Path, version: int = SCHEMA_VERSION) -> Path:
    """Put the golden journal of a schema version at `path`."""
    path.write_bytes(gzip.decompress((GOLDEN / f"v{version}.journal.gz").read_bytes()))
    return path


def upgraded_golden_journal(path: Path) -> Path:
    """The same of the oldest version, brought up to date."""
    golden_journal(path, 1)
    with closing(open_writer(path)) as connection:
        upgrade(connection, path, big_ones=True)
    return path
