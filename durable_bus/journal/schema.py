"""Brings a journal's schema up to this version, through sqlite-utils' Migrations.

A daemon takes small steps by itself when it starts. A step is big when its script says so, on a line
`-- big: why`, because it takes long or needs as much room again as the journal has; then somebody who has the
time says `durable-bus migrate`. So is any step of a journal so large that its backup takes long. Either way
the journal is backed up first, beside itself, and all steps are one transaction: killed at any moment, the
journal is as it was.
"""

import contextlib
import datetime
import importlib.util
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from durable_bus.errors import JournalTooOld
from durable_bus.journal.admin.backup import back_up
from durable_bus.journal.connection import SCHEMA_VERSION, transaction
from durable_bus.journal.database import database_of

__all__ = ["Step", "migrate", "migrations_folder", "pending_steps", "size_of", "upgrade"]

_PACKAGE = Path(__file__).resolve().parent.parent
BACKUP_BYTES_MAX = 1024 * 1024 * 1024
"""A daemon makes a larger backup only when it is told to: nobody expects its start to take as long, nor the
disk to be as full after it.
"""
_AS_BY_SQLITE_UTILS = """
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
"""
_BIG = re.compile(r"^-- big: *(.+)$", re.MULTILINE)


class Step(NamedTuple):
    """A migration that was not applied yet."""

    name: str
    """Of its script, such as `0002_priorities`."""
    does: str
    """The script's first line."""
    big: str | None
    """Why a daemon does not take it by itself; None: it does."""


def migrations_folder() -> Path:
    """The folder of migrations: the repository's when we run from one, because an editable install leaves a
    copy that goes stale; else the copy in the wheel.
    """
    repository = _PACKAGE.parent
    if (repository / "pyproject.toml").exists() and (repository / "migrations" / "migrations.py").exists():
        return repository / "migrations"
    return _PACKAGE / "_migrations"


def _load_migrations(folder: Path) -> Any:
    path = folder / "migrations.py"
    spec = importlib.util.spec_from_file_location("durable_bus_migrations", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.durable_bus


def pending_steps(connection: sqlite3.Connection, folder: Path | None = None) -> list[Step]:
    """What would be applied, in order. Only reads."""
    folder = folder or migrations_folder()
    steps = []
    database = database_of(connection)  # before migrations.py imports sqlite-utils with all that it finds
    for migration in _load_migrations(folder).pending(database):
        sql = (folder / f"{migration.name}.sql").read_text(encoding="utf-8")
        big = _BIG.search(sql)
        does = sql.partition("\n")[0].removeprefix("--").strip()
        steps.append(Step(migration.name, does, big[1] if big else None))
    return steps


def migrate(connection: sqlite3.Connection, folder: Path | None = None) -> None:
    """Apply every step that is pending, all in one transaction."""
    folder = folder or migrations_folder()
    database = database_of(connection)
    migrations = _load_migrations(folder)
    if not migrations.pending(database):
        return
    with transaction(connection):
        # Each migration is a savepoint in here. If we die, the next start finds the schema as it was.
        migrations.apply(database)


def size_of(connection: sqlite3.Connection) -> int:
    """How long a journal is, in bytes, with what is in its log only."""
    pages, page_bytes = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
    )
    return int(pages * page_bytes)


def _create(connection: sqlite3.Connection, folder: Path) -> None:
    """Make of an empty file what `migrate` makes of it, byte for byte, but in 6 ms instead of 113: without
    sqlite-utils.
    """
    scripts = sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    numbers = [int(script.name[:4]) for script in scripts]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):  # as migrations.py says it
        raise FileNotFoundError(f"{folder}: expected migrations 1, 2, ... without a gap, found {numbers}")
    parts = ["BEGIN IMMEDIATE", _AS_BY_SQLITE_UTILS]
    for script in scripts:
        values = f"'durable_bus', '{script.stem}', '{datetime.datetime.now(datetime.UTC)}'"
        parts.append(script.read_text(encoding="utf-8"))
        parts.append(f"INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ({values})")
    try:
        # One transaction: if we die, the next start finds an empty file.
        connection.executescript("\n;\n".join([*parts, "COMMIT"]))
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def upgrade(
    connection: sqlite3.Connection,
    path: Path,
    *,
    big_ones: bool,
    folder: Path | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Path | None:
    """Bring an existing journal up to this version, or make a new one; where the backup is that was made
    first, None when there was nothing to do, or nothing to lose.

    The caller holds the journal's lock. `watch` is told how far the backup is (`back_up`). Raises
    JournalTooOld for a big step unless `big_ones`; nothing was done then.
    """
    if folder is None and connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
        return None  # the last step has set it; a start goes on 70 ms sooner without sqlite-utils
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        _create(connection, folder or migrations_folder())
        return None
    steps = pending_steps(connection, folder)
    if not steps:
        return None
    if not big_ones:
        _refuse_big(steps, size_of(connection), path)
    backup = path.with_name(f"{path.name}.before-{steps[0].name[:4]}")
    back_up(path, backup, watch=watch)
    migrate(connection, folder)
    return backup


def _refuse_big(steps: list[Step], size_bytes: int, path: Path) -> None:
    why = next((f"{step.name} is a big step ({step.big})" for step in steps if step.big), None)
    if why is None and size_bytes > BACKUP_BYTES_MAX:
        why = f"its backup, which comes first, is {size_bytes // 1024**2:,} MiB long"
    if why is not None:
        raise JournalTooOld(
            f"the journal {path} is of an older version, and {why}: run durable-bus migrate --journal {path}"
        )
