"""The journal's schema: every NNNN_*.sql beside this file, in order, as the migration set `durable_bus`.

One file serves the daemon and `sqlite-utils migrate journal.db migrations/`. The latter executes it outside
any package, hence no relative imports, and applies every set it finds among its globals, hence one.

sqlite-utils runs a migration and the row that records it in one transaction, PRAGMA user_version included.
If we die in the middle, the next start finds the schema as it was before and the migration still pending.
"""

import sqlite3
from pathlib import Path

from sqlite_utils import Database, Migrations

durable_bus = Migrations("durable_bus")


def _register(name: str, sql: str) -> None:
    @durable_bus(name=name)
    def migrate(db: Database) -> None:
        # Not the connection's executescript: it commits first, and a kill would leave half a schema. Nor the
        # Database's: it looks for a statement's end after every character, 150 ms for 19 KB instead of 4. A
        # statement must end with its line; sqlite3 refuses to execute two.
        statement = ""
        for line in sql.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                db.execute(statement)
                statement = ""
        if statement.strip():
            db.execute(statement)


def _register_all(folder: Path) -> None:
    scripts = sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    numbers = [int(script.name[:4]) for script in scripts]
    # A gap is an incomplete copy of this folder, and would make a schema that no version ever had.
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise FileNotFoundError(f"{folder}: expected migrations 1, 2, ... without a gap, found {numbers}")
    for script in scripts:
        _register(script.stem, script.read_text(encoding="utf-8"))


_register_all(Path(__file__).resolve().parent)
