"""The CSV example: each row is in one table, once, whatever was killed."""

import csv
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from support import Facts, kill, module, outcome

from durable_bus.examples.csv_to_sqlite import main, payment

HEADER = ["paid_on", "customer", "country", "amount", "currency"]
GOOD = ["2026-01-31", " Ada Lovelace ", "gb", "1,204.50", "EUR"]


def written(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return path


def table(target: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(target)) as connection:
        return connection.execute(sql).fetchall()


def test_a_row_is_converted() -> None:
    assert payment(GOOD) == ["2026-01-31", "Ada Lovelace", "GB", 120450, "EUR"]
    assert payment(["2026-01-31", "Bob", "CH", "-0.07", "CHF"])[3] == -7


@pytest.mark.parametrize(
    ("column", "field", "why"),
    [
        (0, "31.1.2026", "isoformat"),
        (0, "2026-02-30", "day"),
        (1, " ", "nobody"),
        (2, "Britain", "country"),
        (3, "1,20.50", "amount"),
        (3, "1.5", "amount"),
        (4, "DOGE", "currency"),
    ],
)
def test_a_bad_row_says_what_is_wrong(column: int, field: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        payment([*GOOD[:column], field, *GOOD[column + 1 :]])


def test_a_row_of_another_length_is_bad() -> None:
    with pytest.raises(ValueError, match="4 fields"):
        payment(GOOD[:4])


def test_a_file_without_rows_makes_empty_tables(tmp_path: Path) -> None:
    source, target = written(tmp_path / "none.csv", []), tmp_path / "none.db"
    assert main(source, target) == 0
    assert table(target, "SELECT * FROM payment UNION ALL SELECT *, 1, 1, 1 FROM bad_row") == []


@pytest.mark.slow
def test_a_corrected_file_corrects_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "payments.csv", tmp_path / "payments.db"
    bad = [*GOOD[:4], "DOGE"]
    assert main(written(source, [GOOD, bad, ["alone"], GOOD]), target, 1) == 1
    assert table(target, "SELECT row_number, cents FROM payment") == [(1, 120450), (4, 120450)]
    assert table(target, "SELECT row_number, fields, error FROM bad_row") == [
        (2, "\t".join(bad), "ValueError: 'DOGE' is not a currency that we take"),
        (3, "alone", "ValueError: 1 fields instead of 5"),
    ]
    assert main(written(source, [GOOD, GOOD, bad]), target, 1) == 1
    assert table(target, "SELECT row_number FROM payment") == [(1,), (2,)]
    assert table(target, "SELECT row_number FROM bad_row") == [(3,)]
    assert capsys.readouterr().out == "2 rows in payment, 2 in bad_row\n2 rows in payment, 1 in bad_row\n"


ROWS = 200_000
BAD_EVERY = 97


def started(source: Path, target: Path) -> "subprocess.Popen[str]":
    return module("durable_bus.examples.csv_to_sqlite", str(source), str(target), "2")


@pytest.mark.slow
def test_two_hundred_thousand_rows_killed_and_run_again(tmp_path: Path) -> None:
    source, target = tmp_path / "payments.csv", tmp_path / "payments.db"
    rows = [
        [f"2026-{n % 12 + 1:02}-{n % 28 + 1:02}", f"Customer {n}", "ch", f"{n:,}.{n % 100:02}", "CHF"]
        for n in range(1, ROWS + 1)
    ]
    for row in rows[BAD_EVERY - 1 :: BAD_EVERY]:
        row[4] = "DOGE"
    written(source, rows)
    facts = Facts(tmp_path / "payments.journal.db")
    process = started(source, target)
    facts.until("SELECT completed > 20000 FROM buffers")
    # The program is stopped first: it cannot reach its end while its supervisor is looked for and killed.
    process.send_signal(signal.SIGSTOP)
    kill(facts.value("SELECT pid FROM runs"))
    process.kill()
    process.communicate()
    recorded = facts.value("SELECT count(*) FROM results")

    bad_rows = ROWS // BAD_EVERY
    said = f"{ROWS - bad_rows:,} rows in payment, {bad_rows:,} in bad_row\n"
    for _ in range(2):  # the second time nothing runs
        assert outcome(started(source, target)) == (1, said, "")
        assert [ended for (ended,) in facts.rows("SELECT ended FROM runs")] == ["crashed", "clean"]
    assert 20_000 < recorded < ROWS
    good = [n for n in range(1, ROWS + 1) if n % BAD_EVERY]
    assert table(target, "SELECT count(*), min(row_number), max(row_number), sum(cents) FROM payment") == [
        (len(good), good[0], good[-1], sum(100 * n + n % 100 for n in good))
    ]
    assert table(target, "SELECT * FROM payment WHERE customer <> 'Customer ' || row_number") == []
    assert table(target, f"SELECT count(*), sum(row_number % {BAD_EVERY}) FROM bad_row") == [(bad_rows, 0)]
    assert facts.rows("SELECT total, successful, failed FROM buffers") == [(ROWS, ROWS - bad_rows, bad_rows)]
