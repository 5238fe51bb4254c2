"""Who ran what when, of one buffer, in the Trace Event Format that ui.perfetto.dev and chrome://tracing open.

A process of the trace is a run of a supervisor, by its number; one more is the buffer itself. A thread is a
worker of that run, or a place where an engine ran something, and one more for each thing it had at the same
time. Every event is written as soon as it is read: what is kept in memory is what was in workers' hands.

Exact, to the millisecond: when a range was sent, when its answers were committed, when its attempts failed.
Exact, to the microsecond: how long each item took. Derived: when it began, which is not journaled.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKdNaFmGw
"""

import heapq
import itertools
import json
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from durable_bus.journal.admin.traced import Answer, Dispatch, FailedAttempt, TracedBuffer
from durable_bus.journal.formats import micros_of
from durable_bus.replay.lanes import Lane, Lanes, at_once, one_after_another

__all__ = ["trace"]

_ANSWER, _FAILURE, _DISPATCH = range(3)
"""In this order, where one commit has several: nothing is answered by the commit that hands it out."""


class _Run(NamedTuple):
    """A run of a supervisor, and the row of what is said of itself."""

    end_us: int
    is_async: bool
    thread_id: int


@dataclass(slots=True)
class _Open:
    """A dispatch that may still be answered."""

    dispatch: Dispatch
    begin_us: int
    end_us: int
    thread_id: int


def trace(buffer: TracedBuffer, *, served: bool) -> Iterator[str]:
    """The whole document, in pieces. `served`: somebody serves the journal, so its newest run lives.

    Raises NotFound at its end when the buffer was pruned meanwhile.
    """
    facts = {name: buffer.life[name] for name in ("buffer_id", "target", "total", "succeeded", "failed")}
    facts["until"] = {"commit": buffer.until_commit, "ms": buffer.until_ms}
    yield f'{{"displayTimeUnit":"ms","otherData":{_json(facts)},"traceEvents":[\n'
    yield from _Writer(buffer, served).pieces()
    yield "\n]}\n"
    buffer.refuse_pruned()


_json = json.JSONEncoder(separators=(",", ":")).encode


def _event(**fields: Any) -> str:
    return _json(fields)


class _Writer:
    """Writes the events of one buffer, in the order of commits."""

    def __init__(self, buffer: TracedBuffer, served: bool) -> None:
        self._buffer = buffer
        self._served = served
        self._until_us = buffer.until_ms * 1000
        runs = buffer.runs()
        self._run_rows = runs
        self._runs: dict[int, _Run] = {}
        self._ids = itertools.count(max([0, *(run["run_id"] for run in runs)]) + 1)
        """Of all processes and threads but the runs, whose numbers come before them."""
        self._made: list[str] = []
        """Events that name what has just been made."""
        self._lanes = Lanes(self._new_lane)
        self._open: dict[int, _Open] = {}
        self._ends: list[tuple[int, int]] = []
        """A heap: by which commit which of them has ended."""
        self._free_us: dict[tuple[int, int], int] = {}
        """When each worker of each run may have begun its next item."""

    def pieces(self) -> Iterator[str]:
        head = [*self._life(), *itertools.chain.from_iterable(map(self._run, self._run_rows))]
        yield ",\n".join(head)
        for events in self._swept():
            if events := [*self._named(), *events]:
                yield ",\n" + ",\n".join(events)

    def _named(self) -> list[str]:
        made, self._made = self._made, []
        return made

    def _swept(self) -> Iterator[list[str]]:
        """What came of each commit. The three are read side by side."""
        streams = heapq.merge(self._answers(), self._failures(), self._dispatches(), key=lambda one: one[:2])
        for (commit_id, kind), rows in itertools.groupby(streams, key=lambda one: one[:2]):
            while self._ends and self._ends[0][0] < commit_id:
                self._open.pop(heapq.heappop(self._ends)[1], None)
            if kind == _ANSWER:
                yield from self._answered([row for _, _, row in rows])
            elif kind == _FAILURE:
                yield [self._failed(row) for _, _, row in rows]
            else:
                yield [self._sent(row) for _, _, row in rows]

    def _answers(self) -> Iterator[tuple[int, int, Any]]:
        return ((answer.commit_id, _ANSWER, answer) for answer in self._buffer.answers())

    def _failures(self) -> Iterator[tuple[int, int, Any]]:
        return ((failure.commit_id, _FAILURE, failure) for failure in self._buffer.failures())

    def _dispatches(self) -> Iterator[tuple[int, int, Any]]:
        newest = 0
        for dispatch in self._buffer.dispatches():
            newest = max(newest, dispatch.commit_id)  # what was taken back was sent before
            yield newest, _DISPATCH, dispatch

    # The buffer's own life, and the runs.

    def _life(self) -> Iterator[str]:
        life = self._buffer.life
        pid = tid = next(self._ids)
        yield from _process(pid, f"buffer {life['buffer_id']}", 0)
        yield _event(ph="M", name="thread_name", pid=pid, tid=tid, args={"name": f"to {life['target']}"})
        row = {"pid": pid, "tid": tid}
        ended = life["ended_ms"] or self._buffer.until_ms
        opened = life["opened_ms"] or ended
        yield _slice("receiving", life["created_ms"], opened, row)
        if life["opened_ms"] is not None:
            said = {name: life[name] for name in ("total", "succeeded", "failed")}
            yield _slice("open", opened, ended, row, said)
            yield _instant("opened", opened, row)
        if life["sealed_ms"] is not None:
            yield _instant("sealed", life["sealed_ms"], row)
        if life["ended_ms"] is not None:
            yield _instant("ended", ended, row, {"how": life["ended_how"]})
        pauses = self._buffer.pauses()
        if pauses:
            row = {"pid": pid, "tid": next(self._ids)}
            yield _event(ph="M", name="thread_name", **row, args={"name": "paused"})
        for pause in pauses:
            why = {"why": pause["why"]}
            yield _slice("paused", pause["paused_ms"], pause["resumed_ms"] or ended, row, why)

    def _run(self, run: dict[str, Any]) -> Iterator[str]:
        """Of the run only the part that the buffer has seen is drawn: it may have lasted for weeks."""
        life, run_id = self._buffer.life, run["run_id"]
        lives = run["stopped_ms"] is None and run["newest"] and self._served
        ended = "running" if lives else "crashed" if run["stopped_ms"] is None else "clean"
        end_ms = self._buffer.until_ms if lives else run["stopped_ms"] or run["last_commit_ms"]
        row = {"pid": run_id, "tid": next(self._ids)}
        said = json.loads(run["listeners"] or "{}").get(life["target"]) or {}
        self._runs[run_id] = _Run(end_ms * 1000, bool(said.get("is_async")), row["tid"])
        yield from _process(run_id, f"run {run_id}, {run['app']} ({ended})", run_id)
        yield _event(ph="M", name="thread_name", **row, args={"name": f"supervisor {run['pid']}"})
        facts = {name: run[name] for name in ("pid", "app", "version", "started_ms", "stopped_ms")}
        begin_ms = max(run["started_ms"], life["created_ms"])
        seen_ms = min(end_ms, life["ended_ms"] or end_ms)
        yield _slice(f"run {run_id}", begin_ms, seen_ms, row, {**facts, "ended": ended})
        if ended == "crashed" and end_ms <= (life["ended_ms"] or end_ms):
            yield _instant("supervisor crashed", end_ms, row, {"pid": run["pid"]}, "p")

    def _new_lane(self, whose: Hashable, number: int) -> Lane:
        assert isinstance(whose, tuple)
        run_id, name, *_ = whose
        lane = Lane(next(self._ids))
        row = {"pid": run_id, "tid": lane.thread_id}
        name = f"{name}, at the same time: {number + 1}" if number else name
        self._made.append(_event(ph="M", name="thread_name", **row, args={"name": name}))
        order = {"sort_index": lane.thread_id}
        self._made.append(_event(ph="M", name="thread_sort_index", **row, args=order))
        return lane

    # What was handed out, what came back, and what failed.

    def _sent(self, dispatch: Dispatch) -> str:
        run = self._runs.get(dispatch.run_id)
        end_us = self._until_us if run is None else run.end_us
        if dispatch.ended_ms is not None:  # what a crash interrupted, the start after it has ended
            end_us = min(end_us, dispatch.ended_ms * 1000)
        begin_us = dispatch.sent_ms * 1000
        end_us = max(begin_us, end_us)
        engine = f" of {dispatch.engine}" if dispatch.engine else ""
        whose = (dispatch.run_id, f"worker {dispatch.worker_pid}{engine}")
        lane = self._lanes.take(whose, begin_us, end_us)
        self._open[dispatch.dispatch_id] = _Open(dispatch, begin_us, end_us, lane.thread_id)
        if dispatch.ended_commit is not None:
            heapq.heappush(self._ends, (dispatch.ended_commit, dispatch.dispatch_id))
        last = dispatch.first_index + dispatch.item_count - 1
        items = f"{dispatch.first_index}" if dispatch.item_count == 1 else f"{dispatch.first_index}-{last}"
        names = ("dispatch_id", "first_index", "item_count", "attempt", "worker_pid")
        said = {name: getattr(dispatch, name) for name in names}
        if dispatch.engine:
            said["where"] = dispatch.engine
        said["ended"] = dispatch.ended_how or "in flight"
        return _event(
            ph="X", cat="dispatch", name=f"items {items}", pid=dispatch.run_id, tid=lane.thread_id,
            ts=begin_us, dur=end_us - begin_us, args=said,
        )  # fmt: skip

    def _answered(self, answers: list[Answer]) -> Iterator[list[str]]:
        """The answers of one commit: those of a dispatch that ran at one place belong together."""
        together: dict[tuple[int, str | None], list[tuple[Answer, list[int]]]] = {}
        for answer in answers:
            lengths = micros_of(answer.durations)
            if answer.dispatch_id is None or len(lengths) != answer.item_count:
                yield [self._unmeasured(answer)]
            else:
                together.setdefault((answer.dispatch_id, answer.place), []).append((answer, lengths))
        for (dispatch_id, place), group in together.items():
            group.sort(key=lambda one: one[0].first_index)
            yield self._items(self._open.get(dispatch_id), place, group)

    def _unmeasured(self, answer: Answer) -> str:
        """Recorded by the supervisor itself: given again, lost for good, or passed on and come back."""
        how = "given again" if answer.memo else "recorded"
        sent = self._open.get(answer.dispatch_id or 0)
        row = {"pid": answer.run_id, "tid": sent.thread_id if sent else self._supervisor_row(answer.run_id)}
        names = ("first_index", "item_count", "recorded", "attempt")
        said = {name: getattr(answer, name) for name in names} | {"success": answer.success == 1}
        return _instant(f"results {how}", answer.at_ms, row, said)

    def _supervisor_row(self, run_id: int) -> int:
        run = self._runs.get(run_id)
        return run.thread_id if run else 0

    def _items(
        self, sent: _Open | None, place: str | None, group: list[tuple[Answer, list[int]]]
    ) -> list[str]:
        first = group[0][0]
        run_id, end_us = first.run_id, first.at_ms * 1000
        begin_us = 0
        if sent is not None:
            begin_us, end_us = sent.begin_us, max(sent.begin_us, min(end_us, sent.end_us))
        lengths = [micros for _, measured in group for micros in measured]
        texts = [text for answer, measured in group for text in self._texts(answer, measured)]
        run = self._runs.get(run_id)
        if sent is not None and place is None and not (run and run.is_async):
            whose = (run_id, sent.dispatch.worker_pid)
            begin_us = min(end_us, max(begin_us, self._free_us.get(whose, 0)))
            drawn = one_after_another(lengths, begin_us, end_us)
            self._free_us[whose] = sum(drawn[-1])
            row = f'"pid":{run_id},"tid":{sent.thread_id}'
            return [
                f'{{"ph":"X",{row},"ts":{ts},"dur":{dur},{text}'
                for (ts, dur), text in zip(drawn, texts, strict=True)
            ]
        name = place or f"worker {first.worker_pid}, its items"
        return [
            f'{{"ph":"X","pid":{run_id},"tid":{tid},"ts":{ts},"dur":{dur},{texts[position]}'
            for ts, position, dur, tid in at_once(self._lanes, (run_id, name), lengths, begin_us, end_us)
        ]

    def _texts(self, answer: Answer, lengths: list[int]) -> list[str]:
        """The end of each item's event: what is the same for all of them is made once."""
        measured = enumerate(lengths, answer.first_index)
        colour = "" if answer.success else '"cname":"terrible",'
        same = f'"attempt":{answer.attempt},"success":{"true" if answer.success else "false"}'
        if answer.recorded == answer.item_count:
            return [
                f'"cat":"item","name":"item {index}",{colour}'
                f'"args":{{"item":{index},"duration_us":{micros},{same}}}}}'
                for index, micros in measured
            ]
        recorded = self._buffer.recorded_by(answer)
        return [
            f'"cat":"item","name":"item {index}",{colour}'
            f'"args":{{"item":{index},"duration_us":{micros},{same},'
            f'"recorded":{"true" if index in recorded else "false"}}}}}'
            for index, micros in measured
        ]

    def _failed(self, failure: FailedAttempt) -> str:
        row = {"pid": failure.run_id, "tid": self._supervisor_row(failure.run_id)}
        for sent in self._open.values():
            one = sent.dispatch
            offset = failure.index - one.first_index
            if (
                one.attempt == failure.attempt
                and 0 <= offset < one.item_count
                and one.ended_how != "returned"
            ):
                row = {"pid": one.run_id, "tid": sent.thread_id}
        said = {"item": failure.index, "attempt": failure.attempt, "message": failure.message}
        if failure.place:
            said["where"] = failure.place
        return _instant(f"item {failure.index}: {failure.kind}", failure.at_ms, row, said, "t", "failure")


def _process(pid: int, name: str, order: int) -> Iterator[str]:
    yield _event(ph="M", name="process_name", pid=pid, tid=0, args={"name": name})
    yield _event(ph="M", name="process_sort_index", pid=pid, tid=0, args={"sort_index": order})


def _slice(
    name: str, begin_ms: int, end_ms: int, row: dict[str, int], args: dict[str, Any] | None = None
) -> str:
    dur = max(0, end_ms - begin_ms) * 1000
    return _event(ph="X", cat="life", name=name, **row, ts=begin_ms * 1000, dur=dur, args=args or {})


def _instant(
    name: str,
    at_ms: int,
    row: dict[str, int],
    args: dict[str, Any] | None = None,
    scope: str = "t",
    category: str = "life",
) -> str:
    return _event(ph="i", cat=category, name=name, **row, ts=at_ms * 1000, s=scope, args=args or {})
