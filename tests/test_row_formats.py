"""What csv, tsv and JSON readers get of `query`, `export` and `results` is what the journal holds."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from apps import plain
from command_line import Ran, durable_bus

from durable_bus import Text

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
