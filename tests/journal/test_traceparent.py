"""Migration 0006: each buffer may say in which span it was started, and no row is written for that."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import synthetic
from golden_journal import golden_journal
from support import Facts

from durable_bus.journal.admin.check import check
from durable_bus.journal.connection import open_writer
from durable_bus.journal.schema import upgrade

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"
GARBAGE = [
    "", "x", HEADER.upper(), HEADER[:-1], f"{HEADER}0", f"{HEADER}\n", f"01-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE[:-1]}--{SPAN}-01",
    f"00-{TRACE[:-1]}g-{SPAN}-01", f"00-{TRACE}{SPAN}--01",
]  # fmt: skip
SET = "UPDATE buffer SET traceparent = ? WHERE buffer_id = 'returned'"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return golden_journal(tmp_path / "journal.db")


@pytest.mark.parametrize("text", GARBAGE)
def test_what_is_no_header_is_refused_by_name_and_found_by_check(copied: Path, text: str) -> None:
    with closing(open_writer(copied)) as writer:
        with pytest.raises(sqlite3.IntegrityError, match="traceparent_is_of_w3c"):
            writer.execute(SET, (text,))
        writer.execute("PRAGMA ignore_check_constraints = ON")
        writer.execute(SET, (text,))
    assert [finding.name for finding in check(copied).checks if not finding.ok] == ["check_constraints"]


@pytest.mark.parametrize("text", [HEADER, f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-ff", None])
def test_a_header_and_none_are_taken(copied: Path, text: str | None) -> None:
    with closing(open_writer(copied)) as writer:
        assert writer.execute(SET, (text,)).rowcount == 1
    assert (
        Facts(copied).value("SELECT traceparent FROM buffers WHERE buffer_id = 'returned'"),
        check(copied).ok,
    ) == (text, True)


def test_no_row_is_written_however_many_there_are(tmp_path: Path) -> None:
    written = []
    for results in (100, 10_000):
        path = tmp_path / f"{results}.db"
        synthetic.make(path, results, 10, schema_version=5)
        with closing(open_writer(path)) as connection:
            assert upgrade(connection, path, big_ones=False) is not None
            written.append(connection.execute("PRAGMA wal_checkpoint").fetchone()[1])
    assert max(written) - min(written) <= 1
    assert max(written) < 15
