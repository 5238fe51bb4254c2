"""A damaged journal is recognised, named in words and never written to; what can be read is exported."""

import csv
import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from command_line import durable_bus, write_items
from support import Facts, fingerprint
from synthetic import make

from durable_bus.journal.admin.salvage import Salvage
from durable_bus.journal.connection import PAGE_BYTES

COMMANDS = (
    "check",
    "status",
    "replay show",
    "replay plan",
    "replay at 1",
    "query --named stuck",
    "backup copy.db",
    "migrate",
    "results big",
    "export big",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "journal.db"
    make(path, 20_000, 10)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    return path


@pytest.fixture
def damaged(whole: Path, journal: Path) -> Path:
    return Path(shutil.copy(whole, journal))


def cut_off(journal: Path) -> int:
    """All from the twentieth page before the last one with results is missing; how many bytes."""
    size = journal.stat().st_size
    with closing(sqlite3.connect(f"file:{journal}?mode=ro&immutable=1", uri=True)) as connection:
        pages = leaf_pages(connection, ("result",))
    os.truncate(journal, (pages[-20] - 1) * PAGE_BYTES)
    return size - journal.stat().st_size


def scramble(journal: Path, *tables: str) -> int:
    """Overwrite every tenth page of these tables; how many."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro&immutable=1", uri=True)) as connection:
        pages = leaf_pages(connection, tables)
    with open(journal, "r+b") as file:
        for page in pages[::10]:
            file.seek((page - 1) * PAGE_BYTES)
            file.write(b"\xa5" * PAGE_BYTES)
    return len(pages[::10])


def leaf_pages(connection: sqlite3.Connection, tables: tuple[str, ...]) -> list[int]:
    """Found by their first byte (13: a leaf of a table), below the root of each table."""
    found: list[int] = []
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    data = Path(path).read_bytes()
    for table in tables:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        below = [root]
        while below:
            start = (below.pop() - 1) * PAGE_BYTES
            if data[start] == 13:
                found.append(start // PAGE_BYTES + 1)
                continue
            assert data[start] == 5  # an inner page of a table
            below += children(data[start : start + PAGE_BYTES])
    return sorted(found)


@pytest.mark.slow
def test_a_truncated_journal_is_named_and_never_written_to(damaged: Path, tmp_path: Path) -> None:
    missing = cut_off(damaged)
    before = fingerprint(damaged)
    checked = durable_bus("check", "--journal", damaged, cwd=tmp_path)
    assert checked.code == 5
    assert (
        f"the file was cut off: {missing} of its {damaged.stat().st_size + missing} bytes are missing"
        in checked.out
    )
    for command in COMMANDS:
        ran = durable_bus(*command.split(), "--journal", damaged, cwd=tmp_path)
        assert ran.code == 5, command
        assert "Traceback" not in ran.err
    write_items(tmp_path, "fine")
    for command in ("run apps.eventful:bus work --items items.txt", "serve apps.eventful:bus"):
        ran = durable_bus(*command.split(), "--journal", damaged, cwd=tmp_path)
        assert ran.code == 5, command
        assert "damaged" in ran.err
    assert fingerprint(damaged) == before
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.parametrize("damage", [cut_off, lambda path: scramble(path, "result", "answer")])
def test_what_can_be_read_is_exported(whole: Path, damaged: Path, tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    damage(damaged)
    before = fingerprint(damaged)
    ran = durable_bus(
        "export", "big", "--journal", damaged, "--format", "jsonl", "--output", "saved.jsonl", cwd=tmp_path
    )
    assert (ran.code, ran.out) == (5, "")
    saved = {
        row["index"]: row for row in map(json.loads, (tmp_path / "saved.jsonl").read_text().splitlines())
    }
    assert f"{len(saved):,} results of big could be read, of 20,000 that were recorded" in ran.err
    assert 0 < len(saved) < 20_000
    true = dict(Facts(whole).rows("SELECT item_index, payload FROM results"))
    assert {index: row["payload"] for index, row in saved.items()}.items() <= true.items()
    assert fingerprint(damaged) == before


@pytest.fixture(scope="module")
def tall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of small pages, so that its trees are tall; some results do not fit their page."""
    path = tmp_path_factory.mktemp("tall") / "journal.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA page_size = 1024")
        connection.execute("PRAGMA journal_mode = WAL")
    make(path, 20_000, 10)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "UPDATE result SET payload = payload || printf('%.*c', 5000, '+') WHERE item_key % 500 = 7"
        )
    return path


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["inner page", "root", "cut off"])
def test_a_damaged_page_costs_what_is_below_it_and_no_more(
    tall: Path, journal: Path, tmp_path: Path, damage: str
) -> None:
    shutil.copy(tall, journal)
    with closing(sqlite3.connect(f"file:{journal}?mode=ro&immutable=1", uri=True)) as connection:
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'result'").fetchone()
    data = journal.read_bytes()
    pages = [data[start : start + page_bytes] for start in range(0, len(data), page_bytes)]
    lost = 0
    if damage == "cut off":
        os.truncate(journal, len(data) * 9 // 10)
    else:
        inner = children(pages[root - 1])
        number = root if damage == "root" else inner[len(inner) // 2]
        assert pages[number - 1][0] == 5  # a page that has no rows
        lost = rows_below(pages, number)
        with open(journal, "r+b") as file:
            file.seek((number - 1) * page_bytes)
            file.write(b"\xa5" * page_bytes)
    before = fingerprint(journal)
    ran = durable_bus(
        "export", "big", "--journal", journal, "--format", "jsonl", "--output", "saved", cwd=tmp_path
    )
    saved = {row["index"]: row for row in map(json.loads, (tmp_path / "saved").read_text().splitlines())}
    assert ran.code == 5
    assert f"{len(saved):,} results of big could be read" in ran.err
    assert f"of 20,000 that were recorded; {20_000 - len(saved):,} could not" in ran.err
    true = dict(Facts(tall).rows("SELECT item_index, payload FROM results"))
    assert {index: row["payload"] for index, row in saved.items()}.items() <= true.items()
    if damage == "cut off":
        assert len(saved) > 15_000
    else:
        assert len(saved) == 20_000 - lost
        assert (lost == 20_000) == (damage == "root")
    assert fingerprint(journal) == before


def rows_below(pages: list[bytes], number: int) -> int:
    """How many rows a page of a table leads to, or has."""
    page = pages[number - 1]
    if page[0] == 13:
        return int.from_bytes(page[3:5], "big")
    return sum(rows_below(pages, below) for below in children(page))


def children(page: bytes) -> list[int]:
    """The pages below an inner page of a table."""
    cells = int.from_bytes(page[3:5], "big")
    offsets = [int.from_bytes(page[12 + 2 * cell : 14 + 2 * cell], "big") for cell in range(cells)]
    return [int.from_bytes(page[at : at + 4], "big") for at in [*offsets, 8]]


@pytest.mark.parametrize("damage", ["root", "cut off"])
def test_where_no_buffer_is_left_an_export_ends_and_says_so(
    damaged: Path, tmp_path: Path, damage: str
) -> None:
    if damage == "root":
        overwrite_root(damaged, "buffer")
    else:
        os.truncate(damaged, PAGE_BYTES)
    ran = durable_bus("export", "big", "--journal", damaged, "--output", "saved.xml", cwd=tmp_path)
    assert (ran.code, ran.out) == (5, "")
    assert "so damaged that 'big' cannot be found in it" in ran.err
    assert not (tmp_path / "saved.xml").exists()


@pytest.mark.parametrize("table", ["run", "journal_commit", "buffer", "dispatch"])
def test_a_past_that_cannot_be_read_is_named_in_one_line(damaged: Path, tmp_path: Path, table: str) -> None:
    overwrite_root(damaged, table)
    ran = durable_bus("replay", "show", "--journal", damaged, cwd=tmp_path)
    assert (ran.code, ran.out) == (5, "")
    assert "is damaged" in ran.error


def overwrite_root(journal: Path, table: str) -> None:
    """The first page of a table: what leads to all others, where there are others."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro&immutable=1", uri=True)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    with open(journal, "r+b") as file:
        file.seek((root - 1) * PAGE_BYTES)
        file.write(b"\xa5" * PAGE_BYTES)


def test_results_that_are_still_in_the_log_are_read_too(journal: Path, tmp_path: Path) -> None:
    make(journal, 20_000, 10)
    with closing(sqlite3.connect(journal, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("UPDATE result SET payload = 'in the log' WHERE item_key & 4294967295 = 19990")
        connection.execute("BEGIN")  # what is not committed must not count
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("UPDATE result SET payload = 'not committed'")
        copy = tmp_path / "copy.db"
        for suffix in ("", "-wal"):
            shutil.copy(f"{journal}{suffix}", f"{copy}{suffix}")
    assert Path(f"{copy}-wal").stat().st_size > 1_000_000
    with closing(Salvage(copy, "big")) as salvage:
        payloads = [result.payload for result in salvage.results()]
    assert len(payloads) == 20_000
    assert payloads[19990] == "in the log"
    assert "not committed" not in payloads


@pytest.mark.slow
def test_the_other_formats_are_exported_too(damaged: Path, tmp_path: Path) -> None:
    scramble(damaged, "result")
    command = ("export", "big", "--journal", damaged, "--format")
    document = durable_bus(*command, "xml", cwd=tmp_path)
    table = durable_bus(*command, "csv", cwd=tmp_path)
    assert (document.code, table.code) == (5, 5)
    rows = list(csv.DictReader(table.out.splitlines()))
    assert document.out.count("<item ") == 20_000
    assert document.out.count('missing="true"') == 20_000 - len(rows)


def test_structural_damage_is_found_by_check(damaged: Path, tmp_path: Path) -> None:
    scramble(damaged, "dispatch")
    before = fingerprint(damaged)
    ran = durable_bus("check", "--journal", damaged, "--json", cwd=tmp_path)
    assert ran.code == 5
    wrong = {finding["name"] for finding in json.loads(ran.out)["checks"] if not finding["ok"]}
    assert {"sqlite_integrity", "answers_belong_to_a_dispatch"} <= wrong
    assert fingerprint(damaged) == before


@pytest.mark.slow
def test_damage_elsewhere_costs_no_result(whole: Path, damaged: Path, tmp_path: Path) -> None:
    scramble(damaged, "dispatch", "item", "failure")
    ran = durable_bus("export", "big", "--journal", damaged, "--output", "saved.xml", cwd=tmp_path)
    assert ran.code in (0, 5)
    good = durable_bus("export", "big", "--journal", whole, "--output", "good.xml", cwd=tmp_path)
    assert good.code == 0
    assert (tmp_path / "saved.xml").read_bytes() == (tmp_path / "good.xml").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "another database", "no header"])
def test_another_applications_file_is_named_and_left_alone(
    whole: Path, journal: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "text":
        journal.write_text("dear diary\n" * 1000)
    elif kind == "no header":
        journal.write_bytes(b"\0" * PAGE_BYTES + whole.read_bytes()[PAGE_BYTES:])
    else:
        with closing(sqlite3.connect(journal)) as connection:
            connection.execute("CREATE TABLE diary (day TEXT, entry TEXT)")
    before = fingerprint(journal)
    for command in COMMANDS:
        ran = durable_bus(*command.split(), "--journal", journal, cwd=tmp_path)
        assert ran.code == 5, command
        assert "is not a durable_bus journal" in ran.error
    assert fingerprint(journal) == before


@pytest.mark.slow
def test_an_empty_file_is_no_journal_yet(journal: Path, tmp_path: Path) -> None:
    journal.touch()
    for command in COMMANDS:
        ran = durable_bus(*command.split(), "--journal", journal, cwd=tmp_path)
        assert ran.code == 3, command
        assert "is empty" in ran.error
    assert journal.stat().st_size == 0
