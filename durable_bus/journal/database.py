"""sqlite-utils on a connection of ours."""

import sqlite3
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

__all__ = ["database_of"]


def database_of(connection: sqlite3.Connection) -> "Database":
    """Only processes of our own call this, at their end or once: the import takes 0.08 s.

    It brings pandas and numpy, too, where they are installed, to know the types of columns that nobody makes
    here: 0.3 s and 80 MB. They look missing to it, unless they were imported before.
    """
    hidden = [name for name in ("numpy", "pandas") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        from sqlite_utils import Database
    finally:
        for name in hidden:
            del sys.modules[name]
    return Database(connection, execute_plugins=False)
