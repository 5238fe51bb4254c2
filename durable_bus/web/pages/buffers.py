"""Buffers, one buffer, one item, and a whole payload."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from starlette.responses import Response

from durable_bus.errors import NotFound, UsageError
from durable_bus.journal.admin.console import PAGE_ROWS, ConsoleReader
from durable_bus.payloads.forms import FORM_NAMES
from durable_bus.web import drawings
from durable_bus.web.pages.look import Look
from durable_bus.web.pages.overview import with_reasons

STATES = ("receiving", "open", "complete", "cancelled", "pruned")
_BUCKETS = 60
_GROUPS_MAX = 20
_INDEX_DIGITS = 15


def buffers(look: Look) -> Response:
    state, target, part = look.query("state"), look.query("target"), look.query("part")
    if state is not None and state not in STATES:
        raise UsageError(f"no buffer has the state {state!r:.40}; there are: {', '.join(STATES)}")
    with_failures = look.query("failures") is not None
    rows = look.reader.buffers(
        before=look.number("before"), state=state, target=target, part=part, with_failures=with_failures
    )
    more = len(rows) > PAGE_ROWS
    rows = with_reasons(look, rows[:PAGE_ROWS])
    filters = {"state": state, "target": target, "part": part, "failures": "1" if with_failures else None}
    return look.render(
        "buffers.html",
        rows=rows,
        filters=filters,
        states=STATES,
        targets=look.reader.targets(),
        older=look.url("buffers", **filters, before=rows[-1]["buffer_seq"]) if more else None,
        first=look.number("before") is None,
    )


def buffer(look: Look) -> Response:
    reader = look.reader
    row = reader.buffer(look.request.path_params["buffer_id"])
    state, after = look.query("state"), look.number("from")
    if state is not None and state not in drawings.STATES:
        raise UsageError(f"no item has the state {state!r:.40}; there are: {', '.join(drawings.STATES)}")
    groups, all_groups = reader.failure_groups(row)
    items: list[dict[str, Any]] = []
    goes_on = None
    if not row["rows_are_gone"]:
        items, goes_on = reader.items(row, after=-1 if after is None else after - 1, state=state)
    in_hand = reader.in_hand(row)
    forwarded = reader.forwarded(row, drawings.cell_items(row["total"] or 0))
    return look.render(
        "buffer.html",
        row=with_reasons(look, [row])[0],
        counts=_counts(reader, row, in_hand, sum(forwarded.values())),
        retries=reader.retries(row),
        groups=groups[:_GROUPS_MAX],
        more_groups=max(0, len(groups) - _GROUPS_MAX),
        all_groups=all_groups,
        spent=reader.spent(row),
        items=items,
        item_states=drawings.STATES,
        filter_state=state,
        begins_at=after,
        older=None if goes_on is None else _items_url(look, row, goes_on + 1, state),
        **_charts(look, reader, row, in_hand, forwarded),
    )


def _items_url(look: Look, row: dict[str, Any], index: int, state: str | None) -> str:
    return look.url("buffers", row["buffer_id"], **{"from": index, "state": state}) + "#items"


def _counts(
    reader: ConsoleReader, row: dict[str, Any], in_hand: list[dict[str, Any]], forwarded: int
) -> dict[str, int | None]:
    """Items by state, exactly; None where nobody knows any more. What is in a batch and answered, or passed
    on, counts as that.
    """
    if row["completed"] is None or row["total"] is None:
        return dict.fromkeys(drawings.STATES)
    in_flight = sum(one["item_count"] - reader.done(row, one) for one in in_hand)
    rest = row["total"] - row["completed"]
    ended = row["ended_commit"] is not None
    return {
        "succeeded": row["successful"],
        "failed": row["failed"],
        "in_flight": min(in_flight, rest),
        "forwarded": forwarded,
        "waiting": 0 if ended else max(0, rest - in_flight - forwarded),
        "missing": rest if ended else 0,
    }


def _charts(
    look: Look,
    reader: ConsoleReader,
    row: dict[str, Any],
    in_hand: list[dict[str, Any]],
    forwarded: dict[int, int],
) -> dict[str, Any]:
    charts: dict[str, Any] = dict.fromkeys(("rate", "rate_ms", "histogram", "heat", "stride", "quantiles"))
    if row["rows_are_gone"] or not row["total"]:
        return charts
    picture = reader.picture(row)
    charts["stride"] = picture.stride
    ended = row["ended_commit"] is not None
    if picture.spans:
        begin = row["created_ms"]
        end = row["ended_ms"] or max(span[4] for span in picture.spans)
        step = max(1, -(-(end - begin + 1) // _BUCKETS))
        rates = [[0, 0] for _ in range(_BUCKETS)]
        for _, _, recorded, success, at_ms in picture.spans:
            position = min(_BUCKETS - 1, max(0, (at_ms - begin) // step))
            rates[position][0 if success else 1] += recorded * picture.stride
        charts["rate"] = drawings.bars([(good, bad) for good, bad in rates], "Results over its time")
        charts["rate_ms"] = end - begin
    if picture.durations_us:
        charts["histogram"] = drawings.histogram(picture.durations_us)
        ordered = sorted(picture.durations_us)
        # The shortest within which really so many are: of five items "95 % within" is the longest.
        charts["quantiles"] = [
            (name, ordered[max(0, math.ceil(share * len(ordered)) - 1)]) for name, share in _QUANTILES
        ]
    held = [(one["first_index"], one["item_count"]) for one in in_hand]
    cells = drawings.cells_of(row["total"], picture.spans, picture.stride, held, forwarded, ended=ended)
    link: Callable[[int], str] = lambda index: _items_url(look, row, index, None)  # noqa: E731
    charts["heat"] = drawings.heat_map(cells, link)
    return charts


_QUANTILES = (("half within", 0.5), ("95 % within", 0.95), ("99 % within", 0.99), ("the longest", 1.0))


def item(look: Look) -> Response:
    reader = look.reader
    row = reader.buffer(look.request.path_params["buffer_id"])
    one = reader.item(row, _index(look))
    thread_id = f"{row['thread_id']}/{one['item_index']}"
    messages = reader.thread(thread_id)
    return look.render(
        "item.html",
        row=row,
        item=one,
        history=_history(one),
        thread_id=thread_id,
        messages=messages,
        drawing=drawings.thread(messages, lambda message_id: look.url("messages", message_id))
        if messages
        else None,
        is_last=row["total"] is not None and one["item_index"] >= row["total"] - 1,
    )


def _index(look: Look) -> int:
    """Starlette's own numbers have any number of digits, of which Python may make no number."""
    text = str(look.request.path_params["index"])
    if not (text.isascii() and text.isdecimal() and len(text) <= _INDEX_DIGITS):
        raise NotFound(f"no item has the number {text!r:.40}")
    return int(text)


class _Event(NamedTuple):
    """Something that happened to an item. Of one commit, what ended comes before what began."""

    commit: int
    rank: int
    at_ms: int
    what: str
    kind: str = ""
    traceback: str | None = None


def _history(one: dict[str, Any]) -> list[_Event]:
    """In the order of commits."""
    events: list[_Event] = []
    for sent in one["dispatches"]:
        # Of an engine the process is the one that speaks for it: what died is a worker of the engine's own.
        who = f"engine {sent['place']}" if sent["place"] else f"process {sent['worker_pid']}"
        handed = f"attempt {sent['attempt']}: handed to {who}"
        events.append(_Event(sent["commit_id"], 1, sent["sent_ms"], handed))
        how = {
            "died": f"{who} lost it" if sent["place"] else f"{who} died",
            "crashed": "the supervisor crashed",
            "returned": "taken back before it began",
        }
        if sent["ended_how"] in how:
            end = how[sent["ended_how"]]
            events.append(_Event(sent["ended_commit"], 0, sent["ended_ms"], end, "bad"))
    for failed in one["failures"]:
        why = f"attempt {failed['attempt']} failed: {failed['kind']}: {failed['message']}"
        events.append(_Event(failed["commit_id"], 0, failed["at_ms"], why, "bad", failed["traceback"]))
    if one["forwarded_commit"] is not None:
        events.append(
            _Event(one["forwarded_commit"], 2, one["forwarded_ms"], "passed on: its answer comes later")
        )
    if one["success"] is not None:
        end = "succeeded" if one["success"] else "failed for good"
        end += ", given again from an equal item" if one["memo"] else ""
        kind = "ok" if one["success"] else "bad"
        events.append(_Event(one["recorded_commit"], 2, one["recorded_ms"], end, kind))
    return sorted(events, key=lambda event: event[:2])


def payload(look: Look) -> Response:
    """A whole payload as a file of text: a browser never runs it."""
    row = look.reader.buffer(look.request.path_params["buffer_id"])
    index, what = _index(look), look.request.path_params["what"]
    one = look.reader.item(row, index)
    if what not in ("payload", "answer") or one[what] is None:
        raise NotFound(f"item {index} of {row['buffer_id']} has no {what:.40}")
    form = FORM_NAMES[one["item_form" if what == "payload" else "answer_form"]]
    ending = {"json": "json", "xml": "xml"}.get(form, "txt")
    name = f"{row['buffer_id']}-{index}-{what}.{ending}"
    return Response(
        one[what].encode(),
        media_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
