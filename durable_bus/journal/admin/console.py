"""What the console's pages show of a journal: as it is, or as it was after any commit. Read-only.

Of items and answers a look goes through a screenful, or a sample, which the page says; of buffers through
all, where it counts or searches them. All that a page reads is one transaction: its numbers belong together.
"""

import json
from typing import Any, NamedTuple

from durable_bus.errors import NotFound
from durable_bus.journal.admin.moment import PAGE_ROWS, MomentReader
from durable_bus.journal.connection import translated
from durable_bus.journal.formats import INDEX_BITS, micros_of
from durable_bus.journal.patterns import message_pattern
from durable_bus.journal.statements import threads_below

__all__ = [
    "PAGE_ROWS",
    "ConsoleReader",
    "FailureGroup",
    "Picture",
]

_SAMPLE_ANSWERS = 20_000
_SAMPLE_DURATIONS = 20_000
_FAILURES_LOOKED_AT = 20_000
_ITEMS_LOOKED_AT = 50_000
_DISPATCHES_LOOKED_AT = 20_000
_BUFFERS_LOOKED_AT = 2_000
_COMMITS_LOOKED_AT = 50_000
_NO_SEQ = (1 << 63) - 1
_INDEX_MASK = (1 << INDEX_BITS) - 1


def _one_in(count: int, looked_at: int) -> int:
    """Of so many, one in how many is looked at, so that it is no more than that."""
    return max(1, -(-count // looked_at))


class FailureGroup(NamedTuple):
    """Failures of a buffer that say the same."""

    kind: str
    pattern: str
    """The message without its numbers and names."""
    items: int
    """Items that have failed by it."""
    attempts: int
    """Attempts that have failed by it, also those that a later one made good."""
    example: int
    """The index of one of these items."""
    message: str
    """What that one says."""


class Picture(NamedTuple):
    """What a buffer's charts are drawn of. Items are counted as `stride` for each that was looked at."""

    stride: int
    """One answer in so many was looked at."""
    spans: list[tuple[int, int, int, int, int]]
    """Of each answer: first index, items, recorded, success, when (ms since the epoch)."""
    durations_us: list[int]


class ConsoleReader(MomentReader):
    """One look at a journal, for a page."""

    # Runs and time

    def newest_run(self) -> dict[str, Any] | None:
        return self.row_of("newest_run")

    def runs(self, *, served: bool, limit: int = 200) -> list[dict[str, Any]]:
        """The last runs, the newest first, also those that began after the moment. `ended`: `clean`,
        `crashed`, or `running`, as it is now.
        """
        runs = self.rows_of("runs", limit=limit)
        for position, run in enumerate(runs):
            alive = served and position == 0 and run["stopped_at"] is None
            run["ended"] = "running" if alive else "crashed" if run["stopped_at"] is None else "clean"
        return runs

    def rate(self, *, seconds: int, buckets: int, until_ms: int | None = None) -> list[tuple[int, int]]:
        """Results and failed attempts in each of `buckets` equal parts of the time before the moment."""
        until = (self.moment.at_ms if until_ms is None else until_ms) + 1
        step_ms = max(1, seconds * 1000 // buckets)
        since = until - step_ms * buckets
        rates = [(0, 0)] * buckets
        (last_before,) = self.rows_of("last_commit_before", before_ms=since)
        after = last_before["commit_id"]
        for row in self.rows_of("rate", after_commit=after, since_ms=since, until_ms=until, step_ms=step_ms):
            rates[row["bucket"]] = (row["results"], row["failures"])
        return rates

    def density(self, buckets: int) -> list[tuple[int, int]]:
        """The same by commit, over all of the journal, of a sample of the commits of a long one."""
        moment = self.moment
        commits = max(1, moment.newest - moment.oldest + 1)
        stride = _one_in(commits, _COMMITS_LOOKED_AT)
        counts = [(0, 0)] * buckets
        span = {"first": moment.oldest, "commits": commits, "buckets": buckets, "stride": stride}
        for row in self.rows_of("density", **span):
            counts[row["bucket"]] = (row["results"] * stride, row["failures"] * stride)
        return counts

    def by_hand(self) -> list[dict[str, Any]]:
        """What people have asked for until the moment, the newest first."""
        return self.rows_of("by_hand")

    # Buffers

    def states(self) -> dict[str, int]:
        """How many there were in each state; without those that none was in."""
        (row,) = self.rows_of("states")
        return {state: buffers for state, buffers in row.items() if buffers}

    def _buffers(self, seqs: list[int]) -> list[dict[str, Any]]:
        rows = self.rows_of("buffer_rows", seqs=json.dumps(seqs))
        for row in rows:
            known = row["successful"] is not None
            row["completed"] = row["successful"] + row["failed"] if known else None
        return rows

    def _listed(self, name: str, limit: int) -> list[dict[str, Any]]:
        return self._buffers([row["buffer_seq"] for row in self.rows_of(name, limit=limit)])

    def open_buffers(self, limit: int) -> list[dict[str, Any]]:
        return self._listed("open_seqs", limit)

    def ended_buffers(self, limit: int) -> list[dict[str, Any]]:
        """Those that were started last of all that had ended."""
        return self._listed("ended_seqs", limit)

    def buffers(
        self,
        *,
        before: int | None = None,
        state: str | None = None,
        target: str | None = None,
        part: str | None = None,
        with_failures: bool = False,
    ) -> list[dict[str, Any]]:
        """A page, the newest first; one row more than a page says that there is another. `before`: the
        `buffer_seq` to go on from. `part`: of the id.
        """
        seqs = self.rows_of(
            "buffer_list",
            before=_NO_SEQ if before is None else before,
            state=state,
            target=target,
            part=part,
            with_failures=with_failures or None,
            limit=PAGE_ROWS + 1,
        )
        return self._buffers([row["buffer_seq"] for row in seqs])

    def targets(self) -> list[str]:
        """Listeners of the last buffers."""
        return [row["target"] for row in self.rows_of("targets", among=_BUFFERS_LOOKED_AT)]

    def buffer(self, buffer_id: str) -> dict[str, Any]:
        """Raises NotFound when there was none at the moment."""
        seq = self.row_of("buffer_seq_of", buffer_id=buffer_id)
        rows = self._buffers([seq["buffer_seq"]]) if seq else []
        if not rows:
            then = "" if self.moment.is_now else f" at commit {self.moment.commit}"
            raise NotFound(f"no buffer {buffer_id!r:.120} in {self.path}{then}")
        return rows[0]

    def retries(self, row: dict[str, Any]) -> list[str]:
        """Buffers that some of its items were started again in. To know it every buffer is looked at, unless
        there was nothing to start again.
        """
        if row["ended_commit"] is None or row["successful"] == row["total"]:
            return []
        return [one["buffer_id"] for one in self.rows_of("retries_of", buffer_seq=row["buffer_seq"])]

    @staticmethod
    def _keys(row: dict[str, Any]) -> dict[str, int]:
        """The first key, and the last one that an item which had come may have."""
        first_key = row["buffer_seq"] << INDEX_BITS
        last = _INDEX_MASK if row["total"] is None else row["total"] - 1
        return {"first_key": first_key, "last_key": first_key + last}

    def spent(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        return self.rows_of("spent_of_buffer", buffer_seq=row["buffer_seq"])

    def failure_groups(self, row: dict[str, Any]) -> tuple[list[FailureGroup], bool]:
        """What failed in a buffer, by kind and pattern, the most items first; and whether that is all."""
        found: dict[tuple[str, str], list[Any]] = {}

        def count(kind: str, message: str, index: int, final: bool, attempts: int) -> None:
            group = found.setdefault((kind, message_pattern(message)), [0, 0, index, message])
            group[0] += final
            group[1] += attempts
            if final and group[0] == 1:
                group[2:] = [index, message]

        attempts = self.rows_of("failed_attempts", **self._keys(row), limit=_FAILURES_LOOKED_AT)
        for one in attempts:
            count(one["kind"], one["message"], one["item_index"], bool(one["final"]), 1)
        answers = []
        if row["failed"]:
            answers = self.rows_of("failed_answers", buffer_seq=row["buffer_seq"], limit=_FAILURES_LOOKED_AT)
        for one in answers:
            count("answered", one["payload"], one["item_index"], True, 0)
        groups = [FailureGroup(kind, pattern, *rest) for (kind, pattern), rest in found.items()]
        groups.sort(key=lambda group: (-group.items, -group.attempts, group.kind, group.pattern))
        return groups, len(attempts) < _FAILURES_LOOKED_AT and len(answers) < _FAILURES_LOOKED_AT

    def picture(self, row: dict[str, Any]) -> Picture:
        seq = {"buffer_seq": row["buffer_seq"]}
        with translated(self.path):
            count = self.statements.value("answers_count", **seq, last_answer=self.moment.last_answer)
            stride = _one_in(count, _SAMPLE_ANSWERS)
            sample = {**seq, "last_answer": self.moment.last_answer}
            spans = self.statements.all("answers_sample", **sample, stride=stride)
            items_an_answer = max(1, (row["completed"] or 0) // max(1, count))
            coarser = max(stride, _one_in(row["completed"] or 0, _SAMPLE_DURATIONS))
            limit = _SAMPLE_DURATIONS // items_an_answer + 1
            texts = self.statements.all("durations_sample", **sample, stride=coarser, limit=limit)
        durations = [micros for (text,) in texts for micros in micros_of(text)]
        return Picture(stride, spans, durations)

    def in_hand(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Ranges of a buffer's items that somebody has, in their order."""
        if row["state"] != "open" or row["rows_are_gone"]:
            return []
        span = {"buffer_seq": row["buffer_seq"], "first": 0, "last": row["total"] or 0, "limit": 1_000}
        if self.moment.is_now:
            return self.rows_of("in_hand_ranges_now", **span)
        return self.rows_of("in_hand_ranges", **span)

    def done(self, row: dict[str, Any], held: dict[str, Any]) -> int:
        """How many items of such a range have their result already, or were passed on."""
        span = {"first": held["first_index"], "count": held["item_count"]}
        found = self.row_of("done_in_range", buffer_seq=row["buffer_seq"], **span)
        return 0 if found is None else int(found["items"])

    def forwarded(self, row: dict[str, Any], size: int) -> dict[int, int]:
        """Items whose handler has passed its work on, and which wait for the answer: how many there are in
        each part of `size` items, by the number of the part.
        """
        if row["state"] != "open" or row["rows_are_gone"]:
            return {}
        found = self.rows_of("forwarded_parts", **self._keys(row), size=size)
        return {one["part"]: one["items"] for one in found}

    # Items

    def items(
        self, row: dict[str, Any], *, after: int = -1, state: str | None = None
    ) -> tuple[list[dict[str, Any]], int | None]:
        """A page of items behind an index, and the index to go on behind; None: these were the last.

        With a `state` so many items are looked at and no more: a page may have fewer than there is room for,
        and another one behind it.
        """
        first_key, last_key = self._keys(row).values()
        if state in ("waiting", "in_flight"):
            after = max(after, row["low_water"] - 1)
        found: list[dict[str, Any]] = []
        end = min(last_key, first_key + after + _ITEMS_LOOKED_AT)
        after_key = first_key + after
        while after_key < end:
            page, after_key = self._next_items(row, state, after_key, last_key if state is None else end)
            self._say_states(row, page)
            for item in page:
                if state is None or item["state"] == state:
                    if len(found) == PAGE_ROWS:
                        return found, found[-1]["item_index"]
                    found.append(item)
            if state is None:
                break
        return found, after_key - first_key if after_key < last_key else None

    def _next_items(
        self, row: dict[str, Any], state: str | None, after_key: int, end_key: int
    ) -> tuple[list[dict[str, Any]], int]:
        """Some items behind a key that may have a state, and the key to go on behind. Those with a result are
        told from the others without looking at them closely.
        """
        span = {"after_key": after_key, "last_key": end_key, "limit": PAGE_ROWS + 1}
        if state in (None, "succeeded"):
            page = self.rows_of("items_page", **span)
            first_key = self._keys(row)["first_key"]
            return page, first_key + page[-1]["item_index"] if len(page) > PAGE_ROWS else end_key
        if state == "failed":
            wanted = self.rows_of("failed_keys", **span)
        else:
            wanted = self.rows_of("unanswered_keys", **span)
        page = []
        for one in wanted:
            key = one["item_key"]
            page += self.rows_of("items_page", after_key=key - 1, last_key=key, limit=1)
        return page, wanted[-1]["item_key"] if len(wanted) > PAGE_ROWS else end_key

    def _say_states(self, row: dict[str, Any], items: list[dict[str, Any]]) -> None:
        """What the view `items` would have said then."""
        unknown = [item for item in items if item["success"] is None]
        held: set[int] = set()
        if unknown and row["state"] == "open":
            span = {"first": unknown[0]["item_index"], "last": unknown[-1]["item_index"]}
            for one in self.rows_of("in_hand_ranges", buffer_seq=row["buffer_seq"], **span, limit=10_000):
                held.update(range(one["first_index"], one["first_index"] + one["item_count"]))
        for item in items:
            if item["success"] is not None:
                item["state"] = "succeeded" if item["success"] else "failed"
            elif row["ended_commit"] is not None:
                item["state"] = "missing"
            elif item["forwarded"]:
                item["state"] = "forwarded"
            else:
                item["state"] = "in_flight" if item["item_index"] in held else "waiting"

    def item(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        """All that is known of an item: its row, `state`, `failures`, `dispatches`. Raises NotFound."""
        keys = self._keys(row)
        key = keys["first_key"] + index
        item = (
            self.row_of("item", item_key=key)
            if 0 <= index <= _INDEX_MASK and key <= keys["last_key"]
            else None
        )
        if item is None:
            gone = ": its items were pruned" if row["rows_are_gone"] else ""
            raise NotFound(f"no item {index} in buffer {row['buffer_id']}{gone}")
        item["item_index"] = index
        item["forwarded"] = item["forwarded_commit"] is not None
        self._say_states(row, [item])
        item["failures"] = self.rows_of("failures_of_item", item_key=key)[::-1]
        item["dispatches"] = self.rows_of("dispatches_of_item", buffer_seq=row["buffer_seq"], index=index)
        return item

    # Messages, workers, limits

    def thread(self, thread_id: str, limit: int = 100) -> list[dict[str, Any]]:
        """Messages on a thread and below it, in the order they were written."""
        return self.rows_of(
            "messages_of_thread", thread_id=thread_id, **threads_below(thread_id), limit=limit
        )

    def messages(
        self, *, before: int | None = None, state: str | None = None, to_id: str | None = None
    ) -> list[dict[str, Any]]:
        """A page, the newest first; one row more than a page says that there is another."""
        before = _NO_SEQ if before is None else before
        return self.rows_of("messages_page", before=before, state=state, to_id=to_id, limit=PAGE_ROWS + 1)

    def message(self, message_id: str) -> dict[str, Any]:
        """Raises NotFound when there was none at the moment."""
        row = self.row_of("message", message_id=message_id)
        if row is None:
            raise NotFound(f"no message {message_id!r:.120} in {self.path}")
        row["failures"] = self.rows_of("failures_of_message", message_seq=row["message_seq"])[::-1]
        return row

    def waiting_by_name(self) -> list[dict[str, Any]]:
        """Who has messages waiting now."""
        return self.rows_of("waiting_by_name")

    def last_failures(self, limit: int) -> list[dict[str, Any]]:
        return self.rows_of("last_failures", limit=limit)

    def hands(self) -> list[dict[str, Any]]:
        """Who has items in hand; of the past, among the last dispatches."""
        if self.moment.is_now:
            return self.rows_of("hands_now")
        return self.rows_of("hands", among=_DISPATCHES_LOOKED_AT)

    def deaths(self) -> list[dict[str, Any]]:
        return self.rows_of("worker_deaths", among=_DISPATCHES_LOOKED_AT, limit=20)

    def limits_then(self) -> list[dict[str, Any]]:
        return self.rows_of("limits_then")

    def limit_changes(self) -> list[dict[str, Any]]:
        return self.rows_of("limit_changes", limit=20)
