"""Items that have just arrived go out from memory, as the journal would give them."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_bus.journal import fresh_items
from durable_bus.journal.fresh_items import LONG_BYTES, FreshItems, ItemBatch
from durable_bus.journal.journal import Journal
from durable_bus.payloads.packing import cut, pack, unpack


@pytest.fixture
def opened(journal: Path) -> Iterator[Journal]:
    with closing(Journal.open(journal)) as opened:
        with opened.commit(1):
            opened.start_run(1, "fresh", "0")
        yield opened


def columns(buffer_id: str) -> dict[str, Any]:
    return {
        "buffer_id": buffer_id,
        "target": "work",
        "return_to": "",
        "from_id": "cli",
        "thread_id": f"t/{buffer_id}",
        "starter_thread_id": "t",
        "collect": True,
        "request_id": buffer_id,
        "retry_of": None,
    }


def texts(said: str, count: int) -> list[str]:
    return [f"{said} {index}" for index in range(count)]


def add(opened: Journal, buffer_id: str, count: int, said: str = "item") -> int:
    """A whole buffer of texts, inside a commit; its `buffer_seq`."""
    row = opened.buffers.add_whole(pack(texts(said, count)), "0", digest="d", **columns(buffer_id))
    return row.buffer_seq


def keep(fresh: FreshItems, buffer_seq: int, first: int, items: list[str], forms: str = "0") -> None:
    body = pack(items)
    fresh.add(buffer_seq, first, body, cut(body), forms)


def batch(opened: Journal, buffer_seq: int, first: int, count: int) -> list[str]:
    got = opened.buffers.batch(buffer_seq, first, count)
    assert got is not None
    return unpack(got.payloads)


def without_reading(opened: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on a batch cannot be read from the file."""
    monkeypatch.setattr(opened.buffers._statements, "one", None)


def test_what_has_just_arrived_is_not_read_back(opened: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened.commit(2):
        seq = add(opened, "b", 10)
    without_reading(opened, monkeypatch)
    assert batch(opened, seq, 0, 4) + batch(opened, seq, 4, 6) == texts("item", 10)


def test_what_comes_back_after_its_chunk_was_given_out_is_read_from_the_file(opened: Journal) -> None:
    with opened.commit(2):
        seq = opened.buffers.add(**columns("b"))
        for number in range(3):
            assert opened.buffers.add_chunk(seq, number, 4 * number, pack(texts(f"chunk {number}", 4)), "0")
    assert batch(opened, seq, 9, 3) == texts("chunk 2", 4)[1:]
    assert opened.buffers.fresh.batch(seq, 1, 2) is None
    assert batch(opened, seq, 1, 5) == texts("chunk 0", 4)[1:] + texts("chunk 1", 4)[:2]


def test_an_undone_commit_leaves_nothing_under_the_number_that_the_next_buffer_gets(opened: Journal) -> None:
    with pytest.raises(InterruptedError), opened.commit(2):
        undone = add(opened, "undone", 5, "not there")
        raise InterruptedError
    with opened.commit(3):
        seq = opened.buffers.add(**columns("next"))
    assert seq == undone
    assert opened.buffers.fresh.batch(seq, 0, 5) is None


def test_an_undone_part_of_a_commit_leaves_nothing_either(opened: Journal) -> None:
    with opened.commit(2):
        with pytest.raises(InterruptedError), opened.savepoint():
            add(opened, "undone", 5, "not there")
            raise InterruptedError
        seq = add(opened, "next", 3)
    assert batch(opened, seq, 0, 3) == texts("item", 3)


def test_what_a_commit_has_written_stays_when_the_next_one_is_undone(opened: Journal) -> None:
    with opened.commit(2):
        seq = add(opened, "b", 5)
    with pytest.raises(InterruptedError), opened.commit(3):
        raise InterruptedError
    assert opened.buffers.fresh.batch(seq, 0, 5) is not None


@pytest.mark.parametrize("how", ["complete", "cancel", "drop"])
def test_of_a_buffer_that_has_ended_nothing_is_kept(opened: Journal, how: str) -> None:
    with opened.commit(2):
        if how == "drop":
            seq = opened.buffers.add(**columns("b"))
            assert opened.buffers.add_chunk(seq, 0, 0, pack(texts("item", 2)), "0")
        else:
            seq = add(opened, "b", 2)
    assert opened.buffers.fresh.batch(seq, 0, 2) is not None
    with opened.commit(3):
        if how == "drop":
            opened.buffers.drop(seq)
        elif how == "cancel":
            assert opened.buffers.cancel(seq, "cancelled")
        else:
            assert opened.buffers.count_last(seq, 2, 0)
    assert opened.buffers.fresh.batch(seq, 0, 2) is None
    assert opened.buffers.fresh.size_bytes == 0


def test_no_more_is_kept_than_there_is_room_for(opened: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_items, "FRESH_BYTES_MAX", 5_000)
    with opened.commit(2):
        kept, too_many = add(opened, "kept", 100), add(opened, "too_many", 300)
        small = add(opened, "small", 3)
    fresh = opened.buffers.fresh
    assert [fresh.batch(seq, 0, 3) is not None for seq in (kept, too_many, small)] == [True, False, True]
    assert fresh.size_bytes < 5_000
    assert batch(opened, too_many, 0, 300) == texts("item", 300)


def test_long_items_are_not_kept() -> None:
    fresh = FreshItems()
    keep(fresh, 1, 0, ["x" * LONG_BYTES, "y" * LONG_BYTES])
    keep(fresh, 2, 0, ["x" * LONG_BYTES, "y" * LONG_BYTES + "y"])
    assert fresh.batch(1, 0, 2) is not None
    assert fresh.batch(2, 0, 2) is None


def test_of_a_buffer_with_a_gap_only_what_comes_before_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_items, "FRESH_BYTES_MAX", 5_000)
    fresh = FreshItems()
    keep(fresh, 1, 0, texts("item", 10))
    keep(fresh, 1, 10, texts("item", 1_000))  # too much
    keep(fresh, 1, 1_010, texts("item", 10))
    assert fresh.batch(1, 0, 10) is not None
    assert fresh.batch(1, 5, 10) is None
    assert fresh.batch(1, 1_010, 10) is None


TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"))
CHUNKS = st.lists(st.tuples(st.lists(TEXTS, min_size=1), st.sampled_from("0123")), min_size=1, max_size=4)


@given(CHUNKS, st.data())
def test_batches_of_one_form_are_what_was_put_in(
    chunks: list[tuple[list[str], str]], data: st.DataObject
) -> None:
    fresh = FreshItems()
    rows: list[tuple[str, str]] = []
    for chunk, form in chunks:
        keep(fresh, 1, len(rows), chunk, form)
        rows += [(text, form) for text in chunk]
    given_out = 0
    while given_out < len(rows):
        count = data.draw(st.integers(1, len(rows) - given_out))
        got = fresh.batch(1, given_out, count)
        assert got == expected(rows[given_out : given_out + count])
        given_out += count


def expected(rows: list[tuple[str, str]]) -> ItemBatch | None:
    forms = {form for _, form in rows}
    if len(forms) > 1:
        return None
    return ItemBatch(b"".join(text.encode() + b"\0" for text, _ in rows), len(rows), forms.pop())


@pytest.mark.parametrize("forms", ["0", "1", "2", "3", "011", "100", "322", "203"])
def test_memory_and_the_file_give_the_same(opened: Journal, forms: str) -> None:
    items = pack(["", "zwölf 😀", "<a/>"])
    with opened.commit(2):
        row = opened.buffers.add_whole(items, forms, digest="d", **columns("b"))
    seq = row.buffer_seq
    from_memory = opened.buffers.fresh.batch(seq, 0, 3)
    opened.buffers.fresh.forget(seq)
    from_file = opened.buffers.batch(seq, 0, 3)
    assert from_file is not None
    assert from_memory == (from_file if len(forms) == 1 else None)
    assert from_file == ItemBatch(items, 3, forms)


@pytest.mark.parametrize("forms", ["", "01", "0123", "4", "0x1", "-10", "01٣"])
def test_forms_that_are_not_those_of_the_items_are_refused(opened: Journal, forms: str) -> None:
    with pytest.raises(ValueError, match="are not the forms of 3 payloads"), opened.commit(2):
        opened.buffers.add_whole(pack(["a", "b", "c"]), forms, digest="d", **columns("b"))
    assert opened.buffers.by_id("b") is None
