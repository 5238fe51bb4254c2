"""Writes buffers, their items and their pauses. Call every method inside `Journal.commit()`."""

import itertools
import sqlite3
from typing import TYPE_CHECKING, Any, NamedTuple

from durable_bus.errors import JournalDamaged, UsageError
from durable_bus.journal.formats import INDEX_BITS
from durable_bus.journal.fresh_items import FreshItems, ItemBatch
from durable_bus.journal.statements import threads_below
from durable_bus.payloads.forms import form_of_each
from durable_bus.payloads.packing import cut, decoded

if TYPE_CHECKING:
    from durable_bus.journal.journal import Journal

__all__ = ["BufferRow", "BufferTable", "ItemBatch"]

_PRUNE_BUFFERS_MAX = 500


class BufferRow(NamedTuple):
    """A row of the table `buffer`; its columns are explained in `migrations/0001_journal.sql`, the last ones
    in `0003_streams.sql`, `0004_pace.sql` and `0006_traces.sql`.
    """

    buffer_seq: int
    buffer_id: str
    target: str
    return_to: str
    from_id: str
    thread_id: str
    starter_thread_id: str
    collect: int
    request_id: str
    digest: str | None
    next_chunk: int
    received: int
    total: int | None
    succeeded: int
    failed: int
    low_water: int
    retry_of: int | None
    touched_at: int
    created_commit: int
    opened_commit: int | None
    cancelled_commit: int | None = None
    ended_commit: int | None = None
    pruned_commit: int | None = None
    dropped_commit: int | None = None
    sealed_commit: int | None = None
    priority: int = 0
    not_before: int | None = None
    deadline_at: int | None = None
    enough: int | None = None
    max_failures: int | None = None
    budget_of: int | None = None
    ended_how: str | None = None
    traceparent: str | None = None

    @property
    def item_count(self) -> int:
        """Its items; while they are being received, those that have arrived."""
        return self.received if self.total is None else self.total


class BufferTable:
    """Buffers, their items and their pauses."""

    def __init__(self, journal: "Journal") -> None:
        self._journal = journal
        self._statements = journal.statements
        self._write = journal.write
        self.fresh = FreshItems()
        self.may_clear = True
        """Rows of dropped or pruned buffers may be there for `clear_some`."""

    def by_id(self, buffer_id: str) -> BufferRow | None:
        row = self._statements.one("buffer_by_id", buffer_id=buffer_id)
        return None if row is None else BufferRow(*row)

    def by_seq(self, buffer_seq: int) -> BufferRow:
        (row,) = self._statements.all("buffer_by_seq", buffer_seq=buffer_seq)
        return BufferRow(*row)

    def state(self, buffer_id: str) -> tuple[Any, ...] | None:
        """What the view `buffers` says: its state, and whether it is paused."""
        return self._statements.one("buffer_state", buffer_id=buffer_id)

    def open_ones(self) -> list[tuple[BufferRow, bool, bool]]:
        """Every buffer that is open; whether it is paused, and whether any of it was dispatched before, or
        got an answer that was there.
        """
        rows = self._statements.all("open_buffers")
        return [(BufferRow(*row), bool(paused), bool(begun)) for *row, paused, begun in rows]

    def add(self, **columns: Any) -> int:
        """A buffer that begins to be received; its `buffer_seq`. `columns`: of `BufferRow`; a `budget_of` 0
        stands for itself.
        """
        self._journal.ids.buffer += 1
        self._insert(received=0, next_chunk=0, total=None, digest=None, opened_commit=None, **columns)
        return self._journal.ids.buffer

    def add_whole(
        self, items: bytes, forms: str, *, digest: str, count: int | None = None, **columns: Any
    ) -> BufferRow:
        """A buffer that is open at once, with all its items, which are as `add_chunk` takes them. The row is
        not read back: a small buffer takes thirteen statements, and that one took a fifteenth of their time.
        """
        self._journal.ids.buffer += 1
        count = self._add_items(self._journal.ids.buffer, 0, items, forms, count)
        commit_id = self._journal.ids.commit
        columns |= {"received": count, "next_chunk": 1, "total": count}
        columns |= {"digest": digest, "opened_commit": commit_id}
        if columns.get("budget_of") == 0:
            columns["budget_of"] = self._journal.ids.buffer
        self._insert(**columns)
        return BufferRow(
            buffer_seq=self._journal.ids.buffer,
            succeeded=0,
            failed=0,
            low_water=0,
            touched_at=self._journal.now_ms,
            created_commit=commit_id,
            sealed_commit=commit_id,
            **columns,
        )

    def _insert(self, **columns: Any) -> None:
        self._write(
            "add_buffer", buffer_seq=self._journal.ids.buffer, **(BufferRow._field_defaults | columns)
        )

    def add_chunk(
        self,
        buffer_seq: int,
        number: int,
        first_index: int,
        items: bytes,
        forms: str,
        *,
        count: int | None = None,
        streams: bool = False,
    ) -> bool:
        """A numbered chunk: its items as a body (`payloads.packing`). False when the buffer does not wait for
        it any more: use inside `Journal.savepoint()`. `streams`: it is one of a stream, which opens with its
        first.

        `forms`: as `payloads.forms.digits_of` says them, one digit for all of them or one each. `count`: how
        many items there are said to be. Raises UsageError when there are more or fewer, ValueError for other
        digits, and for what is not UTF-8; the savepoint then undoes what was inserted before that.
        """
        count = self._add_items(buffer_seq, first_index, items, forms, count)
        facts: dict[str, Any] = {"buffer_seq": buffer_seq, "item_count": count}
        if streams:
            self._write("add_stream_chunk", first_index=first_index, **facts)
        return self._write("chunk_received", number=number, streams=streams, **facts) == 1

    def _add_items(
        self, buffer_seq: int, first_index: int, items: bytes, forms: str, said: int | None = None
    ) -> int:
        """Rows of the items of a body; how many they are."""
        first_key = (buffer_seq << INDEX_BITS) + first_index
        texts = cut(items)
        if said not in (None, len(texts)):  # to count the NULs before cost 0.02 us an item
            raise UsageError(f"a chunk said to hold {said} items holds {len(texts)}")
        form_of = form_of_each(forms, len(texts))
        if len(forms) == 1:
            self._statements.run_rows("add_items", "last_item", (first_key, form_of[0]), texts)
            self.fresh.add(buffer_seq, first_index, items, texts, forms)
        else:
            self._statements.run_each("add_item", zip(itertools.count(first_key), decoded(texts), form_of))
        return len(texts)

    def take_over(self, buffer_seq: int, request_id: str) -> None:
        """A stream that is not sealed has another producer from now on."""
        self._write("take_over_stream", buffer_seq=buffer_seq, request_id=request_id)

    def seal(self, buffer_seq: int, total: int, digest: str | None) -> bool:
        """All `total` items are here, and no more come. False when they are not, or it was sealed or ended
        before.
        """
        return self._write("seal_buffer", buffer_seq=buffer_seq, total=total, digest=digest) == 1

    def drop(self, buffer_seq: int) -> None:
        """Give up a buffer that never opened; its id is free again, its rows go with `clear_some`."""
        self._write("drop_buffer", buffer_seq=buffer_seq)
        self._write("drop_budget", buffer_seq=buffer_seq)
        self.fresh.forget(buffer_seq)
        self.may_clear = True

    def stale(self, before_ms: int) -> list[tuple[int, str]]:
        """Buffers whose last chunk arrived before a time and that are not open: (buffer_seq, buffer_id)."""
        rows = self._statements.all("stale_receiving_buffers", before_ms=before_ms)
        return [(buffer_seq, buffer_id) for buffer_seq, buffer_id in rows]

    def clear_some(self, rows_max: int) -> int | None:
        """Delete at most `rows_max` items, and what belongs to them, of a dropped or pruned buffer.

        How many items; None when nothing is left.
        """
        row = self._statements.one("buffer_to_clear")
        if row is None:
            self._write("clear_threads_of_dropped")
            self._write("empty_dropped_buffers")
            self.may_clear = False
            return None
        buffer_seq, received, dropped, thread_id, starter_thread_id = row
        first_key = buffer_seq << INDEX_BITS
        # From the end, so that what is left is always a prefix and `received` says how far we are after a
        # kill.
        first_index = max(0, received - rows_max)
        keys = {"first_key": first_key + first_index, "end_key": first_key + (1 << INDEX_BITS)}
        self._write("clear_items", **keys)
        if not dropped:
            for name in ("clear_memos", "clear_results", "clear_forwarded", "clear_failures"):
                self._write(name, **keys)
            for name in ("clear_answers", "clear_dispatches", "clear_chunks"):
                self._write(name, buffer_seq=buffer_seq, first_index=first_index)
        if first_index == 0:
            below = threads_below(thread_id)
            self._write("clear_budget", buffer_seq=buffer_seq)
            for name in ("clear_messages_of_spent", "clear_message_failures", "clear_messages"):
                self._write(name, buffer_seq=buffer_seq, **below)
            self._write("clear_threads", thread_id=thread_id, **below)
            self._write("clear_starter_thread", thread_id=starter_thread_id)
        self._write("set_received", buffer_seq=buffer_seq, received=first_index)
        return int(received - first_index)

    def prune(self, before_ms: int, after: tuple[int, int] = (0, 0)) -> tuple[int, tuple[int, int] | None]:
        """Mark what has ended before a time and has nothing unsettled, of a few hundred buffers that ended
        after `after`. `clear_some` deletes their rows.

        How many were marked, and what to go on from; None when all were looked at.
        """
        span = {"after_commit": after[0], "after_seq": after[1]}
        last_commit = self._journal.last_commit_before(before_ms)
        limits = {"last_commit": last_commit, "limit": _PRUNE_BUFFERS_MAX}
        page = self._statements.all("ended_buffers", **limits, **span)
        if not page:
            return 0, None
        span["last_commit"], span["last_seq"] = page[-1]
        marked = self._write("prune_buffers", before_commit=last_commit, **span)
        self.may_clear = self.may_clear or marked > 0
        later = (span["last_commit"], span["last_seq"])
        return marked, later if len(page) == _PRUNE_BUFFERS_MAX else None

    def count(self, buffer_seq: int, succeeded: int, failed: int) -> None:
        """So many results were really inserted."""
        self._write("count_results", buffer_seq=buffer_seq, succeeded=succeeded, failed=failed)

    def count_last(self, buffer_seq: int, succeeded: int, failed: int) -> bool:
        """The same, and end the buffer, which now has all results. False, and nothing is counted, if not."""
        counts = {"succeeded": succeeded, "failed": failed}
        return self._ended(buffer_seq, self._write("count_last_results", buffer_seq=buffer_seq, **counts))

    def cancel(self, buffer_seq: int, how: str) -> bool:
        """End an open buffer without its missing results. False when it was not open. `how`: enough,
        max_failures, deadline or cancelled.
        """
        return self._ended(buffer_seq, self._write("cancel_buffer", buffer_seq=buffer_seq, how=how))

    def _ended(self, buffer_seq: int, changed: int) -> bool:
        if changed == 1:
            self.fresh.forget(buffer_seq)
            self.resume(buffer_seq)  # nothing that has ended is paused
        return changed == 1

    def pause(self, buffer_seq: int, why: str = "asked") -> None:
        """`why`: asked, or budget. One that is paused stays so for its first reason."""
        self._write("pause_buffer", buffer_seq=buffer_seq, why=why)

    def paused_why(self, buffer_seq: int) -> str | None:
        """Why it is paused; None: it is not."""
        return self._statements.value("paused_why", buffer_seq=buffer_seq)  # type: ignore[no-any-return]

    def resume(self, buffer_seq: int) -> None:
        self._write("resume_buffer", buffer_seq=buffer_seq)

    def set_low_water(self, buffer_seq: int, low_water: int) -> None:
        self._write("set_low_water", buffer_seq=buffer_seq, low_water=low_water)

    def batch(self, buffer_seq: int, first_index: int, count: int) -> ItemBatch | None:
        """The items from `first_index` on, at most `count`; None when they are far too long together
        (TEXT_BYTES_MAX). Raises JournalDamaged for one that cannot be in a body.
        """
        fresh = self.fresh.batch(buffer_seq, first_index, count)
        if fresh is not None:
            return fresh
        first_key = (buffer_seq << INDEX_BITS) + first_index
        keys = {"first_key": first_key, "end_key": first_key + count}
        try:
            row = self._statements.one("items_packed", **keys)
        except sqlite3.DataError as error:
            if count > 1:
                return None
            raise JournalDamaged(f"item {first_index} of buffer {buffer_seq}: {error}") from error
        assert row is not None
        payloads, found, lowest_form, highest_form = row
        if payloads.count(b"\0") != found:
            # A NUL inside a payload would give every later item of the batch another's answer.
            raise JournalDamaged(f"an item of buffer {buffer_seq} from index {first_index} on holds a NUL")
        is_mixed = lowest_form != highest_form
        forms = self._statements.value("item_forms", **keys) if is_mixed else str(lowest_form)
        return ItemBatch(payloads, found, forms)

    def outstanding(
        self, buffer_seq: int, first_index: int, end_index: int, limit: int
    ) -> list[tuple[int, int]]:
        """At most `limit` items of a range without an outcome or a coming retry: (index, failed attempts)."""
        base = buffer_seq << INDEX_BITS
        rows = self._statements.all(
            "outstanding_items", first_key=base + first_index, end_key=base + end_index, limit=limit
        )
        return [(index, failures) for index, failures in rows]
