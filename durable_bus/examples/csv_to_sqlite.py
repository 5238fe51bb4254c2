"""A CSV file, checked and converted by workers, into a table of another SQLite database.

    python -m durable_bus.examples.csv_to_sqlite payments.csv payments.db

`payments.csv` has a header, and rows such as

    2026-01-31,Ada Lovelace,gb,"1,204.50",EUR

Good rows go into the table `payment`, the others, with what is wrong with them, into `bad_row`; both say
which row of the file it was. What was checked is recorded in `payments.journal.db`. Kill it and run it again:
the rows that are recorded are not checked again, and each row is in one of the tables, once.
"""

import csv
import datetime
import hashlib
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import islice, tee
from pathlib import Path

import durable_bus
from durable_bus import ItemFailed

BATCH_ROWS = 5_000
"""So many rows are one transaction."""

TABLES = """
CREATE TABLE IF NOT EXISTS payment (
    row_number INTEGER PRIMARY KEY, paid_on TEXT, customer TEXT, country TEXT, cents INTEGER, currency TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS bad_row (row_number INTEGER PRIMARY KEY, fields TEXT, error TEXT) STRICT;
"""

_AMOUNT = re.compile(r"(-?)(\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d\d))?")

Payment = list[str | int]
"""The columns of `payment` behind the first."""


def payment(fields: list[str]) -> Payment:
    """Check and convert one row. Raises ValueError for one that is not as it should be."""
    if len(fields) != 5:
        raise ValueError(f"{len(fields)} fields instead of 5")
    paid_on, customer, country, amount, currency = (field.strip() for field in fields)
    if not customer:
        raise ValueError("nobody has paid")
    if not re.fullmatch("[A-Za-z]{2}", country):
        raise ValueError(f"{country!r} is not a country of two letters")
    if currency not in ("CHF", "EUR", "USD"):
        raise ValueError(f"{currency!r} is not a currency that we take")
    found = _AMOUNT.fullmatch(amount)
    if found is None:
        raise ValueError(f"{amount!r} is not an amount")
    sign, whole, hundredths = found.groups()
    cents = int(f"{sign}{whole.replace(',', '')}{hundredths or '00'}")
    return [datetime.date.fromisoformat(paid_on).isoformat(), customer, country.upper(), cents, currency]


Checked = tuple[int, list[str], Payment | ItemFailed]
"""The number of a row, its fields, and what became of them."""


def checked_rows(source: Path, journal: Path, workers: int | None = None) -> Iterator[Checked]:
    """Each row of the file, in order. The first one behind the header has number 1."""
    with source.open("rb") as file:
        # Of the whole file: a file that was corrected anywhere is another buffer.
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with source.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        next(reader, None)
        # The rows twice: for map, and beside its values. Map is at most 10,000 ahead, so no more are held.
        rows, given = tee(reader)
        values: Iterator[Payment | ItemFailed] = durable_bus.map(
            payment,
            given,
            journal=journal,
            workers=workers,
            buffer_id=f"payments-{digest[:16]}",
            return_exceptions=True,
            timeout=10,
        )
        for number, (value, fields) in enumerate(zip(values, rows, strict=False), 1):
            yield number, fields, value


def store(checked: Iterator[Checked], database: sqlite3.Connection) -> tuple[int, int]:
    """Write the rows; how many were good, and how many bad.

    Each batch is a transaction that replaces what the tables have of its numbers. So it may be written again,
    after the program was killed, and a bad row that was corrected in the file leaves `bad_row`.
    """
    database.executescript(TABLES)
    good_rows = bad_rows = 0
    while batch := list(islice(checked, BATCH_ROWS)):
        good = [(number, *value) for number, _, value in batch if not isinstance(value, ItemFailed)]
        bad = [
            (number, "\t".join(fields), value.message)
            for number, fields, value in batch
            if isinstance(value, ItemFailed)
        ]
        numbers = (batch[0][0], batch[-1][0])
        with database:  # a transaction
            database.execute("DELETE FROM payment WHERE row_number BETWEEN ? AND ?", numbers)
            database.execute("DELETE FROM bad_row WHERE row_number BETWEEN ? AND ?", numbers)
            database.executemany("INSERT OR REPLACE INTO payment VALUES (?, ?, ?, ?, ?, ?)", good)
            database.executemany("INSERT OR REPLACE INTO bad_row VALUES (?, ?, ?)", bad)
        good_rows += len(good)
        bad_rows += len(bad)
    with database:  # of a file that was longer
        database.execute("DELETE FROM payment WHERE row_number > ?", (good_rows + bad_rows,))
        database.execute("DELETE FROM bad_row WHERE row_number > ?", (good_rows + bad_rows,))
    return good_rows, bad_rows


def main(source: Path, target: Path, workers: int | None = None) -> int:
    """Exit code 1: some rows are bad."""
    checked = checked_rows(source, target.with_suffix(".journal.db"), workers)
    with closing(sqlite3.connect(target)) as database:
        good_rows, bad_rows = store(checked, database)
    print(f"{good_rows:,} rows in payment, {bad_rows:,} in bad_row")
    return 1 if bad_rows else 0


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python -m durable_bus.examples.csv_to_sqlite CSV DATABASE [WORKERS]")
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else None))
