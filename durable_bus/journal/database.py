"""sqlite-utils on a connection of ours."""

import sqlite3
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

__all__ = ["database_of"]


def database_of(connection: sqlite3.Connection) -> "Database":
    """For `query`, and for a journal that is upgraded: the import takes 0.08 s.

    It imports pandas and numpy, too, where they are installed, for types of columns that nobody makes here:
    0.3 s and 80 MB. They look missing to it, unless they were imported before. So only processes of our own
    may call this: a user's program, which imports sqlite-utils later, would miss those types.
    """
    hidden = [name for name in ("numpy", "pandas") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        from sqlite_utils import Database
    finally:
        for name in hidden:
            del sys.modules[name]
    return Database(connection, execute_plugins=False)
