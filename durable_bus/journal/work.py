"""Writes dispatches, answers, results and failed attempts. Call every method inside `Journal.commit()`.

An item has one outcome: a result, or a row in `forwarded_item`. Whichever is committed first keeps the other
out. Methods return how many rows they really inserted; counters change by nothing else.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from durable_bus.journal.formats import INDEX_BITS
from durable_bus.payloads.characters import representable
from durable_bus.payloads.packing import cut, decoded, pack

if TYPE_CHECKING:
    from durable_bus.journal.journal import Journal

__all__ = ["Attempts", "Failure", "Interrupted", "Retry", "WorkTable"]

_BY_SUPERVISOR: dict[str, Any] = {"dispatch_id": None, "worker_pid": None, "durations": ""}
"""Where an answer comes from that no worker has given."""
TRACEBACK_BYTES_MAX = 4096
FAILURE_MESSAGE_CHARS_MAX = 2000
_KEYS_MAX = 10_000
"""So many are looked up at once: SQLite takes 32,766 parameters."""
PLACE_CHARS_MAX = 300
"""Of what an engine, or one of its workers, is called. The tables have it as a constraint."""


class Failure(NamedTuple):
    """Why an attempt did not lead to an outcome."""

    kind: str
    message: str
    traceback: str = ""
    supervisor_died: bool = False
    answer: str = ""
    """The repr of what a handler has answered, where it could not be written."""
    final: bool = False
    """Its listener does not retry this exception."""
    after_s: float | None = None
    """By RetryAfter: it comes back in so many seconds, and no attempt is charged."""


class Attempts(NamedTuple):
    """How often an item or message has failed so far, and why."""

    total: int
    charged: int
    """Exceptions and time-outs: what a listener's `attempts` counts."""
    lost: int
    lost_with_supervisor: int
    returns: int = 0
    """How often it came back by RetryAfter."""
    returning_since_ms: int | None = None
    """When it first did, ms since the epoch."""

    @property
    def lost_at_all(self) -> bool:
        """A death has been near it: it goes out alone."""
        return self.lost + self.lost_with_supervisor > 0


@dataclass(frozen=True, slots=True)
class Retry:
    """An item that is due again after a failed attempt."""

    failure_id: int
    index: int
    failures: int
    has_outcome: bool


class Interrupted(NamedTuple):
    """A dispatch that had not ended when the last run did."""

    dispatch_id: int
    buffer_seq: int
    first_index: int
    end_index: int
    attempt: int
    alone: int
    worker_pid: int
    place: str | None
    """The engine it was given to; None: a worker of ours."""


def _as_kept(place: str | None) -> str | None:
    """What an engine says of its workers is foreign text: one that a table would refuse, or that is no text
    at all, must not stop the supervisor.
    """
    return representable(place)[:PLACE_CHARS_MAX] if place else None


class WorkTable:
    """Dispatches, answers, results, failures, and the items whose handlers passed their work on."""

    def __init__(self, journal: "Journal") -> None:
        self._journal = journal
        self._statements = journal.statements
        self._write = journal.write

    def dispatch(
        self,
        buffer_seq: int,
        first_index: int,
        count: int,
        attempt: int,
        alone: bool,
        worker_pid: int,
        place: str | None = None,
    ) -> int:
        """A range is about to go to a worker. If we die before, the next start finds it interrupted.

        `place`: the engine that the worker speaks for; None: it runs the range itself.
        """
        self._journal.ids.dispatch += 1
        self._write(
            "add_dispatch",
            dispatch_id=self._journal.ids.dispatch,
            buffer_seq=buffer_seq,
            first_index=first_index,
            item_count=count,
            attempt=attempt,
            alone=alone,
            worker_pid=worker_pid,
            place=_as_kept(place),
        )
        return self._journal.ids.dispatch

    def end_dispatch(self, dispatch_id: int, how: str) -> None:
        """`how`: answered, returned (all of it), died (with its worker) or crashed (with its supervisor)."""
        self._write("end_dispatch", dispatch_id=dispatch_id, how=how)

    def shorten_dispatch(self, dispatch_id: int, returned_from: int) -> None:
        """Items from this index on come back before their start, as a dispatch of their own, returned now."""
        self._journal.ids.dispatch += 1
        split = {"dispatch_id": dispatch_id, "returned_from": returned_from}
        added = self._write("add_returned_dispatch", returned_id=self._journal.ids.dispatch, **split)
        shortened = self._write("shorten_dispatch", **split)
        assert added == shortened == 1, "a dispatch is shortened within its own bounds, while it is in flight"

    def interrupted(self) -> list[Interrupted]:
        """What earlier runs had handed out and never saw the end of."""
        return [Interrupted(*row) for row in self._statements.all("interrupted_dispatches")]

    def record_results(
        self,
        *,
        buffer_seq: int,
        first_index: int,
        item_count: int,
        payloads: bytes,
        success: bool,
        form: int,
        passed_on: bool,
        **origin: Any,
    ) -> int:
        """A contiguous range of answers as they came; how many were the first for their item. The rest leave
        nothing. `form`: of all of them (`payloads.forms`). `passed_on`: items of the buffer may have been
        passed on. `origin`: the answer's `dispatch_id`, `attempt`, `worker_pid` and `durations`, and its
        `place`: where it ran, if not in a worker of ours.
        """
        answer_id = self._journal.ids.answer + 1
        first_key = (buffer_seq << INDEX_BITS) + first_index
        texts = cut(payloads)
        assert len(texts) == item_count, "a frame of answers says another number than it holds"
        facts = (success, form, answer_id)
        keys = {"first_key": first_key, "end_key": first_key + item_count}
        if passed_on and self._statements.value("has_forwarded", **keys):
            rows = [(first_key + position, *facts, text) for position, text in enumerate(decoded(texts))]
            recorded = self._statements.run_each("add_result_not_forwarded", rows)
        else:
            recorded = self._statements.run_rows("add_results", "last_result", (first_key, *facts), texts)
        columns = {"buffer_seq": buffer_seq, "first_index": first_index, "item_count": item_count}
        return self._add_answer(answer_id, recorded, success=success, memo=False, **columns, **origin)

    def _add_answer(self, answer_id: int, recorded: int, **columns: Any) -> int:
        """The row of an answer that was the first for so many items, unless it was for none; how many."""
        if recorded:
            self._journal.ids.answer = answer_id
            self._journal.new_results += recorded
            columns["place"] = _as_kept(columns.get("place"))
            self._write("add_answer", answer_id=answer_id, recorded=recorded, **columns)
        return recorded

    def record_result(self, *, index: int, payload: str, **facts: Any) -> bool:
        """The result of an item that is decided here and not answered by its own handler; False when it has
        one. `facts`: `buffer_seq`, `success`, `form` and `attempt`, as `record_results` takes them.
        """
        where = {"first_index": index, "item_count": 1}
        facts = {**_BY_SUPERVISOR, **where, **facts}
        return self.record_results(payloads=pack([payload]), passed_on=False, **facts) == 1

    def memos(self, digests: list[bytes]) -> dict[bytes, int]:
        """The keys of items whose answers there are for equal ones, by digest."""
        found: dict[bytes, int] = {}
        for first in range(0, len(digests), _KEYS_MAX):
            found |= self._statements.all_of("memos", digests[first : first + _KEYS_MAX])
        return found

    def remember(self, buffer_seq: int, first_index: int, digests: tuple[bytes, ...]) -> None:
        """The answers of neighbouring items are there for what has their digests, if none was before."""
        first_key = (buffer_seq << INDEX_BITS) + first_index
        rows = [(digest, first_key + position) for position, digest in enumerate(digests)]
        self._statements.run_each("add_memo", rows)

    def give_again(self, buffer_seq: int, first_index: int, sources: list[int], attempt: int) -> int:
        """Neighbouring items get the answers of other items, by the keys of those; how many had none yet."""
        answer_id = self._journal.ids.answer + 1
        first_key = (buffer_seq << INDEX_BITS) + first_index
        rows = [(first_key + position, answer_id, source) for position, source in enumerate(sources)]
        recorded = self._statements.run_each("give_again", rows)
        columns = {"buffer_seq": buffer_seq, "first_index": first_index, "item_count": len(sources)}
        return self._add_answer(
            answer_id, recorded, success=True, memo=True, attempt=attempt, **columns, **_BY_SUPERVISOR
        )

    def has_outcome(self, buffer_seq: int, index: int) -> bool:
        return bool(self._statements.value("has_outcome", item_key=(buffer_seq << INDEX_BITS) + index))

    def forward_item(self, buffer_seq: int, index: int, dispatch_id: int, attempt: int) -> bool:
        """The item's handler passed its work on: that is its outcome. False when it has one already."""
        item_key = (buffer_seq << INDEX_BITS) + index
        return self._write("forward_item", item_key=item_key, dispatch_id=dispatch_id, attempt=attempt) == 1

    def forwarded_attempt(self, buffer_seq: int, index: int) -> int | None:
        """The attempt at which the item was passed on; None when it was not."""
        value = self._statements.value("forwarded_attempt", item_key=(buffer_seq << INDEX_BITS) + index)
        return None if value is None else int(value)

    def item_attempts(self, buffer_seq: int, index: int) -> Attempts:
        return self._attempts(item_key=(buffer_seq << INDEX_BITS) + index)

    def message_attempts(self, message_seq: int) -> Attempts:
        return self._attempts(message_seq=message_seq)

    def _attempts(self, *, item_key: int | None = None, message_seq: int | None = None) -> Attempts:
        row = self._statements.one("failures_of", item_key=item_key, message_seq=message_seq)
        assert row is not None
        return Attempts(*row)

    def record_failure(
        self,
        failure: Failure,
        attempt: int,
        *,
        item: tuple[int, int] | None = None,
        message_seq: int | None = None,
        retry_at: int | None = None,
        place: str | None = None,
    ) -> None:
        """An attempt that failed, of an item (buffer_seq, index) or of a message. `place`: where it ran, if
        not in a worker of ours.
        """
        self._journal.new_failures += 1
        self._write(
            "add_failure",
            item_key=(item[0] << INDEX_BITS) + item[1] if item else None,
            message_seq=message_seq,
            attempt=attempt,
            kind=failure.kind,
            supervisor_died=failure.supervisor_died,
            message=failure.message[:FAILURE_MESSAGE_CHARS_MAX],
            traceback_id=self._traceback_id(failure.traceback) if failure.traceback else None,
            retry_at=retry_at,
            place=_as_kept(place),
        )

    def _traceback_id(self, body: str) -> int:
        body = body.encode("utf-8", "replace")[-TRACEBACK_BYTES_MAX:].decode("utf-8", "ignore")
        digest = hashlib.sha256(body.encode()).hexdigest()[:32]
        return int(self._statements.value("add_traceback", digest=digest, body=body))

    def due_retries(self, buffer_seq: int, now_ms: int, limit: int) -> list[Retry]:
        rows = self._statements.all("due_retries", buffer_seq=buffer_seq, now_ms=now_ms, limit=limit)
        return [Retry(*row) for row in rows]

    def next_retry_at(self, buffer_seq: int) -> int | None:
        value = self._statements.value("next_retry_at", buffer_seq=buffer_seq)
        return None if value is None else int(value)

    def mark_retried(self, failure_id: int) -> None:
        """The attempt that follows this failure goes out now."""
        self._write("mark_retried", failure_id=failure_id)
