"""What csv, tsv and JSON readers get of `query`, `export` and `results` is what the journal holds."""

import csv
import io
import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from apps import plain
from command_line import Ran, durable_bus

from durable_bus import Text
from durable_bus.journal.connection import open_writer

ANSWERS = ["a\rb", "", "plain", "\r", "two\r\nends", "a\nb", "tab\there", 'say "so", then', "\rlast", " x "]
AS_ONE_BUFFER = "SELECT item_index, payload FROM results WHERE buffer_id = 'u'"


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal whose buffer u has ANSWERS."""
    journal = tmp_path_factory.mktemp("answered") / "journal.db"
    with plain.bus.running(journal=journal, workers=1) as client:
        client.start("echo", [Text(answer) for answer in ANSWERS], buffer_id="u").wait(60)
    return journal


def read(ran: Ran, **dialect: Any) -> list[dict[str, str]]:
    """As the csv module asks for: a file opened with newline=""."""
    assert (ran.code, ran.err) == (0, "")
    return list(csv.DictReader(io.StringIO(ran.out, newline=""), **dialect))


@pytest.mark.parametrize("command", ["export", "results"])
def test_results_come_back_from_csv_character_for_character(
    answered: Path, tmp_path: Path, command: str
) -> None:
    ran = durable_bus(command, "u", "--format", "csv", "--journal", answered, cwd=tmp_path)
    assert [row["payload"] for row in read(ran)] == ANSWERS
    assert "\n2,true,plain,false,,1," in ran.out


@pytest.mark.parametrize(("format_name", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_what_a_query_finds_comes_back_character_for_character(
    answered: Path, tmp_path: Path, format_name: str, delimiter: str
) -> None:
    command = ("query", AS_ONE_BUFFER, "--format", format_name, "--journal", answered)
    ran = durable_bus(*command, cwd=tmp_path)
    rows = read(ran, delimiter=delimiter)
    assert [(row["item_index"], row["payload"]) for row in rows] == [
        (str(index), answer) for index, answer in enumerate(ANSWERS)
    ]
    assert f"2{delimiter}plain\n" in ran.out


@pytest.mark.slow
def test_json_is_json_and_no_format_writes_bytes_as_python_does(answered: Path, tmp_path: Path) -> None:
    sql = "SELECT 9e999 AS more, -9e999 AS less, x'FF00' AS blob, 1.5 AS number, NULL AS absent"

    def ran(format_name: str) -> Ran:
        return durable_bus("query", sql, "--format", format_name, "--journal", answered, cwd=tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    (row,) = json.loads(ran("json").out, parse_constant=refuse)
    assert row == {"more": None, "less": None, "blob": "FF00", "number": 1.5, "absent": None}
    (row,) = read(ran("csv"))
    assert row == {"more": "inf", "less": "-inf", "blob": "FF00", "number": "1.5", "absent": ""}
    assert ran("table").out.split()[-4:] == ["inf", "-inf", "FF00", "1.5"]


@pytest.mark.slow
def test_csv_has_its_heading_also_without_rows(answered: Path, tmp_path: Path) -> None:
    def ran(*arguments: str) -> str:
        done = durable_bus("query", *arguments, "--journal", answered, cwd=tmp_path)
        assert (done.code, done.err) == (0, "")
        return done.out

    none = ("SELECT buffer_id, total AS items FROM buffers WHERE buffer_id = :b", "-p", "b", "absent")
    assert ran(*none, "--format", "csv") == "buffer_id,items\n"
    assert ran(*none, "--format", "tsv") == "buffer_id\titems\n"
    assert ran(*none, "--format", "json") == "[]\n"
    assert ran("--named", "failed-items", "--format", "csv") == "buffer_id,item_index,attempt,error\n"


def test_text_that_is_not_utf8_is_damage(answered: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copy(answered, tmp_path / "damaged.db"))
    with closing(open_writer(damaged)) as connection:
        connection.execute("UPDATE result SET payload = CAST(x'ff41' AS TEXT) WHERE payload = 'plain'")
    ran = durable_bus("query", AS_ONE_BUFFER, "--format", "csv", "--journal", damaged, cwd=tmp_path)
    assert (ran.code, ran.out) == (5, "")
    assert "is not UTF-8" in ran.error
