"""What a reader makes of the rows of results, whatever shape the answers have that they came in."""

import gc
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from journal_rows import add_buffer
from support import Facts

from durable_bus.journal.formats import packed
from durable_bus.journal.journal import Journal
from durable_bus.journal.paging import PAGE_CHARS
from durable_bus.journal.reader import JournalReader
from durable_bus.payloads.forms import TEXT
from durable_bus.payloads.messages import Json, Pickled, Result, Text, Xml
from durable_bus.payloads.packing import pack

ITEMS = 6_000


@pytest.fixture
def opened(journal: Path) -> Iterator[Journal]:
    with closing(Journal.open(journal)) as opened:
        with opened.commit(1):
            opened.start_run(1, "reading", "0")
        yield opened


def buffer_of(opened: Journal, buffer_id: str, forms: str = "0") -> int:
    with opened.commit(2):
        return add_buffer(opened, buffer_id, [f"item {index}" for index in range(ITEMS)], forms)


def answer(
    opened: Journal,
    buffer_seq: int,
    first: int,
    count: int,
    by: str,
    *,
    measured: bool = True,
    padding: str = "",
) -> None:
    """One answer of `count` items, whose text says who gave it. Every third answerer fails."""
    with opened.commit(3):
        opened.work.record_results(
            buffer_seq=buffer_seq,
            first_index=first,
            item_count=count,
            payloads=pack([f"{padding}{by} says {index}" for index in range(first, first + count)]),
            success=int(by) % 3 > 0,
            form=int(by) % 4,
            dispatch_id=None,  # type: ignore[arg-type]  # the supervisor's own
            attempt=int(by) % 5 + 1,
            worker_pid=7,
            durations=packed([index * 11 for index in range(first, first + count)]) if measured else "",
            passed_on=False,
        )


def as_the_view_says(journal: Path, buffer_id: str) -> list[Result]:
    columns = "item_index, success, payload, is_xml, error, attempt, coalesce(duration_ms, 0.0), form"
    rows = Facts(journal).rows(
        f"SELECT {columns} FROM results WHERE buffer_id = ? ORDER BY item_index", buffer_id
    )
    return [Result(row[0], bool(row[1]), row[2], bool(row[3]), *row[4:]) for row in rows]


def as_recorded(reader: JournalReader, buffer_seq: int) -> list[Result]:
    read: list[Result] = []
    after = 0
    while True:
        page, after = reader.results_after(buffer_seq, after)
        if not page:
            return read
        read += page


@pytest.mark.parametrize("seed", range(4))
def test_results_are_what_the_view_says_whatever_answers_overlap(
    opened: Journal, journal: Path, seed: int
) -> None:
    """Answers of one item and of thousands, one after the other and over one another, with gaps left."""
    chance = random.Random(seed)
    before, buffer_seq, behind = (buffer_of(opened, name) for name in ("before", "b", "behind"))
    for by in range(40):
        count = chance.choice([1, 2, 31, 32, 33, 500, 2_500])
        first = chance.randrange(ITEMS - count + 1)
        answer(opened, buffer_seq, first, count, str(by), measured=chance.random() < 0.8)
        answer(opened, chance.choice([before, behind]), first, count, str(by))
    with JournalReader(journal) as reader:
        in_order = list(reader.results(buffer_seq))
        expected = as_the_view_says(journal, "b")
        assert 0 < len(expected) < ITEMS
        assert in_order == expected
        assert all(result.payload.endswith(f" says {result.index}") for result in in_order)
        assert sorted(as_recorded(reader, buffer_seq)) == expected


# Each with the item that it answers


def items_of(forms: str, indexes: range) -> list[tuple[str, int]]:
    """As they were given in by `buffer_of`."""
    return [(f"item {index}", int(forms[index % len(forms)])) for index in indexes]


@pytest.mark.parametrize("forms", ["2", "0123" * (ITEMS // 4)], ids=["alike", "mixed"])
def test_every_result_comes_with_its_own_item_whatever_answers_overlap(
    opened: Journal, journal: Path, forms: str
) -> None:
    chance = random.Random(5)
    before, buffer_seq, behind = (buffer_of(opened, name, forms) for name in ("before", "b", "behind"))
    for by in range(40):
        count = chance.choice([1, 2, 31, 32, 33, 500, 2_500])
        first = chance.randrange(ITEMS - count + 1)
        answer(opened, buffer_seq, first, count, str(by))
        answer(opened, chance.choice([before, behind]), first, count, str(by))
    given = items_of(forms, range(ITEMS))
    with JournalReader(journal) as reader:
        alone = list(reader.results(buffer_seq))
        with_items = list(reader.results(buffer_seq, with_items=True))
        failed = list(reader.results(buffer_seq, with_items=True, failed_only=True))
        recorded, _ = reader.results_after(buffer_seq, 0, with_items=True)
    assert [one.item for one in alone] == [None] * len(alone)
    assert [one._replace(item=None) for one in with_items] == alone
    assert [one.item for one in with_items] == [given[one.index] for one in alone]
    assert failed == [one for one in with_items if not one.success]
    assert set(recorded) <= set(with_items)
    assert {one.is_xml for one in recorded} == {False, True}


def test_items_take_a_statement_a_page(
    opened: Journal, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer_seq = buffer_of(opened, "b", "0123" * (ITEMS // 4))
    answer(opened, buffer_seq, 0, ITEMS, "1")
    with JournalReader(journal) as reader:
        asked: list[str] = []
        reader.connection.set_trace_callback(asked.append)
        pages = [len(page) for page in reader.pages(buffer_seq, with_items=True)]
    assert pages == [2_000] * 3
    assert len(asked) == 4 * len(pages) + 2, "the answer, its results, the items, their forms; no more"


def test_a_page_ends_with_the_item_that_makes_it_long_enough(opened: Journal, journal: Path) -> None:
    buffer_seq = buffer_of(opened, "b")
    with opened.commit(3):
        sql = "UPDATE item SET payload = ? WHERE item_index < 9"
        assert opened.connection.execute(sql, ("x" * (PAGE_CHARS // 2),)).rowcount == 9
    for first in range(0, 9, 3):  # too few together to be read as one text
        answer(opened, buffer_seq, first, 3, "1")
    with JournalReader(journal) as reader:
        assert [len(page) for page in reader.pages(buffer_seq, with_items=True)] == [2, 2, 2, 2, 1]
        assert [len(page) for page in reader.pages(buffer_seq)] == [9]


def test_items_that_are_too_long_for_one_text_are_read_row_by_row(opened: Journal, journal: Path) -> None:
    """Those of one answer never are, as they went out as one text; so here this reader has less room."""
    buffer_seq = buffer_of(opened, "b")
    answer(opened, buffer_seq, 0, 100, "1")
    with JournalReader(journal) as reader:
        expected = list(reader.results(buffer_seq, with_items=True))
        reader.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_500)
        with opened.commit(4):
            opened.connection.execute("UPDATE item SET payload = payload || '                    '")
        results = list(reader.results(buffer_seq, with_items=True))
    assert [(one.payload, one.item[0].rstrip()) for one in results] == [
        (one.payload, one.item[0]) for one in expected
    ]


def test_items_that_were_given_in_come_out_as_what_they_were(opened: Journal, journal: Path) -> None:
    """So that whoever runs them again gives in the same."""
    kinds = [Text, Xml, Json.raw, Pickled]
    forms = "0123" * (ITEMS // 4)
    buffer_seq = buffer_of(opened, "b", forms)
    expected = [kinds[form](text) for text, form in items_of(forms, range(ITEMS))]
    with JournalReader(journal) as reader:
        assert list(reader.items(buffer_seq)) == expected
        content = reader.content("b")
        assert content is not None
        answer(opened, buffer_seq, 0, ITEMS - 5, "1")
        assert list(reader.unsuccessful_items(content)) == expected[-5:]


def test_a_page_ends_with_the_payload_that_makes_it_long_enough(opened: Journal, journal: Path) -> None:
    buffer_seq = buffer_of(opened, "b")
    padding = "x" * (PAGE_CHARS // 10)
    for first in range(0, 100, 20):  # too few together to be read as one text
        answer(opened, buffer_seq, first, 20, "1", padding=padding)
    with JournalReader(journal) as reader:
        pages = list(reader.pages(buffer_seq))
        recorded = as_recorded(reader, buffer_seq)
    assert [len(page) for page in pages] == [10] * 10
    assert [result.index for page in pages for result in page] == list(range(100))
    assert [result.index for result in recorded] == list(range(100))


def test_failed_results_are_found_among_all_others(opened: Journal, journal: Path) -> None:
    buffer_seq = buffer_of(opened, "b")
    for number, first in enumerate(range(0, ITEMS, 50)):
        answer(opened, buffer_seq, first, 50, str(number))
    with JournalReader(journal) as reader:
        failed = list(reader.results(buffer_seq, failed_only=True))
        everything = list(reader.results(buffer_seq))
    assert failed == [result for result in everything if not result.success]
    assert len(failed) == ITEMS // 3


def test_results_of_a_damaged_row_do_not_move_to_other_items(opened: Journal, journal: Path) -> None:
    """No answer holds a NUL. If a row comes to hold one all the same, its neighbours keep their places."""
    buffer_seq = buffer_of(opened, "b")
    answer(opened, buffer_seq, 0, 100, "1")
    with opened.commit(4):
        opened.connection.execute(
            "UPDATE result SET payload = 'a' || char(0) || 'b' WHERE item_key & 255 = 50"
        )
    with JournalReader(journal) as reader:
        results = list(reader.results(buffer_seq))
    assert [result.index for result in results] == list(range(100))
    assert results[50].payload == "a\0b"
    assert results[51].payload == "1 says 51"


@pytest.mark.parametrize("enabled", [True, False])
def test_reading_leaves_the_garbage_collector_as_it_was(
    opened: Journal, journal: Path, enabled: bool
) -> None:
    buffer_seq = buffer_of(opened, "b")
    answer(opened, buffer_seq, 0, 100, "1")
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with JournalReader(journal) as reader:
            for _ in reader.results(buffer_seq):
                assert gc.isenabled() is enabled
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_a_duration_of_any_length_is_read_as_the_longest_that_can_be_kept(
    journal: Path, opened: Journal
) -> None:
    """Ten digits of microseconds are 2 h 46 min; one that took eleven made all of its answer unreadable."""
    buffer_seq = buffer_of(opened, "b")
    day_us = 24 * 3600 * 1_000_000
    in_an_older_journal = str(day_us)
    with opened.commit(3):
        for index, durations in enumerate([packed([day_us]), in_an_older_journal]):
            opened.work.record_result(
                buffer_seq=buffer_seq,
                index=index,
                payload="took a day",
                success=True,
                form=TEXT,
                attempt=1,
                durations=durations,
            )
    with JournalReader(journal) as reader:
        results = list(reader.results(buffer_seq))
    assert [result.payload for result in results] == ["took a day", "took a day"]
    assert results[0].duration_ms == 9_999_999.999
    assert packed([1, day_us]) == "00000000019999999999"


@pytest.fixture
def nothing_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever tests in this process have frozen before."""
    gc.unfreeze()
    monkeypatch.setattr("durable_bus.journal.results._seen_frozen", False)


@pytest.mark.usefixtures("nothing_frozen")
def test_results_that_were_read_count_as_old_for_the_garbage_collector(
    opened: Journal, journal: Path
) -> None:
    buffer_seq = buffer_of(opened, "b")
    answer(opened, buffer_seq, 0, ITEMS, "1")
    with JournalReader(journal) as reader:
        results = list(reader.results(buffer_seq))
        old = {id(one) for one in gc.get_objects(generation=2)}
    assert {id(result) for result in results} <= old


@pytest.mark.usefixtures("nothing_frozen")
def test_what_somebody_has_frozen_stays_frozen(opened: Journal, journal: Path) -> None:
    buffer_seq = buffer_of(opened, "b")
    answer(opened, buffer_seq, 0, ITEMS, "1")
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with JournalReader(journal) as reader:
            assert len(list(reader.results(buffer_seq))) == ITEMS
        assert gc.get_freeze_count() > frozen * 0.9
    finally:
        gc.unfreeze()
