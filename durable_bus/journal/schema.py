"""Brings a journal's schema up to this version, through sqlite-utils' Migrations."""

import importlib.util
import sqlite3
from pathlib import Path
from typing import Any

__all__ = ["migrate", "migrations_folder"]

_PACKAGE = Path(__file__).resolve().parent.parent


def migrations_folder() -> Path:
    """The folder of migrations: the repository's when we run from one, else the copy that travels in the
    wheel.

    In that order, because an editable install leaves a copy that goes stale.
    """
    repository = _PACKAGE.parent
    if (repository / "pyproject.toml").exists() and (repository / "migrations" / "migrations.py").exists():
        return repository / "migrations"
    return _PACKAGE / "_migrations"


def _load_migrations() -> Any:
    path = migrations_folder() / "migrations.py"
    spec = importlib.util.spec_from_file_location("durable_bus_migrations", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.durable_bus


def migrate(connection: sqlite3.Connection) -> None:
    """Apply every migration that is still pending, each in a transaction of its own.

    If we die here, the next start finds the schema before or after a migration, never inside one.
    """
    from sqlite_utils import Database  # costs 0.14 s: only the process that owns the journal pays it

    migrations = _load_migrations()
    database = Database(connection, execute_plugins=False)
    if migrations.pending(database):
        migrations.apply(database)
