"""`query`: in which formats it answers, how parameters are read, and what may not be asked."""

import csv
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command_line import durable_bus
from eventful import Story, supervised, texts

from durable_bus.errors import TimedOut, UsageError
from durable_bus.journal.admin.query import ask


def test_every_format_has_the_same_rows(story: Story, tmp_path: Path) -> None:
    sql = "SELECT buffer_id, total FROM buffers WHERE buffer_id LIKE :which ORDER BY buffer_id"
    command = ("query", sql, "-p", "which", "inner%", "--journal", story.journal, "--format")
    printed = {name: durable_bus(*command, name, cwd=tmp_path) for name in ("table", "json", "csv", "tsv")}
    assert {ran.code for ran in printed.values()} == {0}
    rows = [{"buffer_id": "inner-0", "total": 3}, {"buffer_id": "inner-1", "total": 3}]
    assert json.loads(printed["json"].out) == rows
    for name, delimiter in (("csv", ","), ("tsv", "\t")):
        read = csv.DictReader(io.StringIO(printed[name].out), delimiter=delimiter)
        assert [{**row, "total": int(row["total"])} for row in read] == rows
    lines = printed["table"].out.splitlines()
    assert [line.split() for line in lines] == [
        ["buffer_id", "total"], ["---------", "-----"], ["inner-0", "3"], ["inner-1", "3"],
    ]  # fmt: skip


IDS_LIKE_NUMBERS = ["7", "007", "-1", "1.50", "20260131120000000001"]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Buffers whose names look like numbers, each with an item that failed and one that did not."""
    journal = tmp_path_factory.mktemp("numbered") / "journal.db"
    with supervised(journal) as client:
        for buffer_id in IDS_LIKE_NUMBERS:
            client.start("work", texts("bad", "fine"), buffer_id=buffer_id).wait(60)
    return journal


@pytest.mark.slow
@pytest.mark.parametrize("buffer_id", IDS_LIKE_NUMBERS)
def test_a_buffer_whose_name_looks_like_a_number_is_found(
    numbered: Path, tmp_path: Path, buffer_id: str
) -> None:
    def rows(*arguments: str) -> list[dict[str, Any]]:
        command = ("query", *arguments, "--format", "json", "--journal", numbered, "-p", "buffer", buffer_id)
        ran = durable_bus(*command, cwd=tmp_path)
        assert (ran.code, ran.err) == (0, "")
        found: list[dict[str, Any]] = json.loads(ran.out)
        assert {row.get("buffer_id") for row in found} == {buffer_id}
        return found

    assert len(rows("--named", "slowest-items")) == 2
    assert len(rows("--named", "worker-of-item", "-p", "item", "1")) == 1
    views = ("buffers", "items", "results", "failures", "dispatches")
    found = rows(
        " UNION ALL ".join(
            f"SELECT '{view}' AS view, buffer_id FROM {view} WHERE buffer_id = :buffer" for view in views
        )
    )
    assert {row["view"] for row in found} == set(views)
    (item,) = rows("SELECT * FROM items WHERE buffer_id = :buffer AND item_index = :item", "-p", "item", "1")
    assert item["payload"] == "fine"


@pytest.mark.parametrize("value", ["-", "١", "1_0", "9" * 5000, "9223372036854775808"])
def test_what_is_not_written_as_a_number_is_text(story: Story, tmp_path: Path, value: str) -> None:
    sql = "SELECT :x AS value, typeof(:x) AS type"
    command = ("query", sql, "--format", "json", "--journal", story.journal, "-p", "x", value)
    assert json.loads(durable_bus(*command, cwd=tmp_path).out) == [{"value": value, "type": "text"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["DELETE FROM result"], "a query only reads"),
        (["DELETE FROM result RETURNING 1"], "a query only reads"),
        (["ATTACH 'other.db' AS other"], "returns no rows"),
        (["SELECT absent FROM buffers"], "no such column: absent"),
        (["SELECT :x"], "binding parameter :x"),
        (["--named", "unheard-of"], "slowest-items"),
        (["--named", "durations", "-p", "bufer", "x"], "it takes buffer"),
        ([], "either SQL or --named"),
        (["rate"], "rate is no SQL, but a question's name: durable-bus query --named rate"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(
    story: Story, tmp_path: Path, arguments: list[str], says: str
) -> None:
    ran = durable_bus("query", *arguments, "--journal", story.journal, cwd=tmp_path)
    assert ran.code == 2
    assert says in ran.error


def test_a_query_that_takes_too_long_is_interrupted(story: Story) -> None:
    endless = "WITH RECURSIVE n (i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(TimedOut):
        list(ask(story.journal, endless, {}, time_limit_s=0.2))


def test_a_journal_cannot_be_written_through_a_pragma(copied: Path) -> None:
    before = list(ask(copied, "PRAGMA user_version", {}, time_limit_s=1))
    for sql in ("PRAGMA user_version = 7", "PRAGMA query_only = OFF"):
        try:
            list(ask(copied, sql, {}, time_limit_s=1))
        except UsageError:
            pass
    assert list(ask(copied, "PRAGMA user_version", {}, time_limit_s=1)) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA journal_mode=delete",
        "PRAGMA main.Journal_Mode",
        "PRAGMA locking_mode = EXCLUSIVE",
        "PRAGMA user_version = 7",
        "PRAGMA query_only = OFF",
        "PRAGMA optimize",
        "SELECT * FROM pragma_wal_checkpoint",
        "SELECT * FROM pragma_user_version(7)",
        "VACUUM INTO 'other.db'",
    ],
)
def test_a_pragma_that_does_more_than_read_is_refused(copied: Path, tmp_path: Path, sql: str) -> None:
    before = copied.read_bytes()
    ran = durable_bus("query", sql, "--journal", copied, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert "storage" not in ran.error
    assert copied.read_bytes() == before
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA table_info(buffer)",
        "PRAGMA main.page_count",
        "PRAGMA quick_check(1)",
        "SELECT name FROM pragma_table_xinfo('buffer')",
        "SELECT s.name, x.name FROM sqlite_master s, pragma_index_list(s.name) x WHERE s.type = 'table'",
        "SELECT * FROM pragma_page_size",
        "SELECT * FROM pragma_function_list",
    ],
)
def test_a_pragma_that_only_reads_is_asked(copied: Path, sql: str) -> None:
    assert list(ask(copied, sql, {}, time_limit_s=5))


@pytest.mark.slow
def test_a_query_never_takes_the_writers_lock(journal: Path, tmp_path: Path) -> None:
    """A checkpoint takes it, and holds it as long as a reader is in its way."""
    with supervised(journal) as client:
        client.start("work", texts("fine"), buffer_id="before").wait(60)
        with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM buffer").fetchall()
            client.start("work", texts("fine"), buffer_id="after").wait(60)
            ran = durable_bus("query", "PRAGMA wal_checkpoint(TRUNCATE)", cwd=tmp_path)
    assert (ran.code, ran.error) == (
        2,
        "PRAGMA wal_checkpoint is not one of those that only read the journal",
    )


def test_control_characters_do_not_reach_the_terminal(story: Story, tmp_path: Path) -> None:
    ran = durable_bus("query", "SELECT char(27) || '[31m' AS evil", "--journal", story.journal, cwd=tmp_path)
    assert ran.out.splitlines()[-1] == r"\u001b[31m"
