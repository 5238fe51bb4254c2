"""A damaged journal is recognised, named in words and never written to; what can be read is exported."""

import csv
import hashlib
import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from command_line import durable_bus, write_items
from eventful import supervised, texts
from support import Facts, kill
from synthetic import make

PAGE_BYTES = 4096
COMMANDS = (
    "check",
    "status",
    "replay show",
    "replay plan",
    "replay at 1",
    "query --named stuck",
    "backup copy.db",
    "migrate",
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


def fingerprint(journal: Path) -> str:
    return hashlib.sha256(journal.read_bytes()).hexdigest()


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
            assert data[start] == 5  # an inner page of a table: cells with the number of a page each
            cells = int.from_bytes(data[start + 3 : start + 5], "big")
            offsets = [start + 12 + 2 * cell for cell in range(cells)]
            starts = [start + int.from_bytes(data[offset : offset + 2], "big") for offset in offsets]
            below += [int.from_bytes(data[cell : cell + 4], "big") for cell in starts]
            below.append(int.from_bytes(data[start + 8 : start + 12], "big"))
    return sorted(found)


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


def test_damage_elsewhere_costs_no_result(whole: Path, damaged: Path, tmp_path: Path) -> None:
    scramble(damaged, "dispatch", "item", "failure")
    ran = durable_bus("export", "big", "--journal", damaged, "--output", "saved.xml", cwd=tmp_path)
    assert ran.code in (0, 5)
    good = durable_bus("export", "big", "--journal", whole, "--output", "good.xml", cwd=tmp_path)
    assert good.code == 0
    assert (tmp_path / "saved.xml").read_bytes() == (tmp_path / "good.xml").read_bytes()


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


def test_an_empty_file_is_no_journal_yet(journal: Path, tmp_path: Path) -> None:
    journal.touch()
    for command in COMMANDS:
        ran = durable_bus(*command.split(), "--journal", journal, cwd=tmp_path)
        assert ran.code == 3, command
        assert "is empty" in ran.error
    assert journal.stat().st_size == 0


def test_a_copy_that_may_lack_its_wal_is_named_and_can_be_read(
    journal: Path, facts: Facts, tmp_path: Path
) -> None:
    with supervised(journal) as client:
        client.start("work", texts("fine"), buffer_id="done").wait(60)
        assert client.supervisor_pid is not None
        kill(client.supervisor_pid)
    crashed = durable_bus("check", "--journal", journal, cwd=tmp_path)
    assert (crashed.code, "-wal" in crashed.out) == (0, False)
    copy = tmp_path / "elsewhere" / "copy.db"
    copy.parent.mkdir()
    with closing(sqlite3.connect(f"file:{journal}?mode=rw", uri=True)) as connection:
        connection.execute("PRAGMA wal_checkpoint(FULL)")  # so that there is something in it to look at
        shutil.copy(journal, copy)
    before = fingerprint(copy)
    ran = durable_bus("check", "--journal", copy, cwd=tmp_path)
    assert ran.code == 5
    assert "there is no copy.db-wal beside the journal" in ran.out
    assert fingerprint(copy) == before
    assert durable_bus("export", "done", "--journal", copy, cwd=tmp_path).code == 0
    # In its own place, somebody may have opened and closed it, which brings the log home: a note, no more.
    Path(f"{journal}-wal").unlink(missing_ok=True)
    here = durable_bus("check", "--journal", journal, cwd=tmp_path)
    assert (here.code, "there is no journal.db-wal" in here.out) == (0, True)
    # And a backup of a journal in the same state lacks nothing.
    back = durable_bus("backup", "whole.db", "--journal", journal, cwd=tmp_path)
    assert back.code == 0
    checked = durable_bus("check", "--journal", "whole.db", cwd=tmp_path)
    assert (checked.code, "-wal" in checked.out) == (0, False)
