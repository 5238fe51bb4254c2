"""What a migration's backup takes is known before, and a daemon does not begin with a large one."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from durable_bus.errors import JournalTooOld
from durable_bus.journal import schema
from durable_bus.journal.admin import backup as backup_module
from durable_bus.journal.admin.check import check
from durable_bus.journal.connection import PAGE_BYTES, open_writer
from durable_bus.journal.schema import migrations_folder, upgrade


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """This version's migrations, and a small one after them."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrations_folder(), folder)
    number = len(list(folder.glob("*.sql"))) + 1
    (folder / f"{number:04d}_small.sql").write_text(
        "-- Adds a column.\nALTER TABLE run ADD COLUMN host TEXT;\n"
    )
    return folder


def columns(journal: Path) -> set[str]:
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        return {name for _, name, *_ in connection.execute("PRAGMA table_info(run)")}


def test_a_daemon_leaves_a_large_journal_to_the_command(
    copied: Path, steps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_writer(copied)) as connection:
        monkeypatch.setattr(schema, "BACKUP_BYTES_MAX", schema.size_of(connection) - 1)
        with pytest.raises(
            JournalTooOld, match=r"its backup, which comes first, is \d+ MiB long: run durable-bus"
        ):
            upgrade(connection, copied, big_ones=False, folder=steps)
        assert "host" not in columns(copied)
        assert not list(copied.parent.glob("*.before-*"))
        monkeypatch.setattr(schema, "BACKUP_BYTES_MAX", schema.size_of(connection))
        assert upgrade(connection, copied, big_ones=False, folder=steps) is not None
    assert "host" in columns(copied)


def test_whoever_watches_is_told_how_far_the_backup_is(
    copied: Path, steps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_module, "_STEP_BYTES", 3 * PAGE_BYTES)
    seen: list[tuple[int, int]] = []
    with closing(open_writer(copied)) as connection:
        size_bytes = schema.size_of(connection)
        backup = upgrade(
            connection,
            copied,
            big_ones=True,
            folder=steps,
            watch=lambda done, whole: seen.append((done, whole)),
        )
    assert backup is not None
    assert backup.stat().st_size == size_bytes
    assert {whole for _, whole in seen} == {size_bytes}
    assert [done for done, _ in seen] == [*range(3 * PAGE_BYTES, size_bytes, 3 * PAGE_BYTES), size_bytes]
    assert check(backup).ok


@pytest.mark.parametrize(("size_bytes", "seconds"), [(400, 2.0), (1_000, 2.0), (100_000, 200.0)])
def test_how_long_a_copy_takes_is_judged_by_copying_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int, seconds: float
) -> None:
    """By this clock, two seconds for any part."""
    monkeypatch.setattr(backup_module, "_SAMPLE_BYTES", 1_000)
    monkeypatch.setattr("time.monotonic", iter([5.0, 7.0]).__next__)
    journal = tmp_path / "journal.db"
    journal.write_bytes(b"x" * size_bytes)
    assert backup_module.copy_seconds(journal, size_bytes) == seconds
    assert list(tmp_path.iterdir()) == [journal]
