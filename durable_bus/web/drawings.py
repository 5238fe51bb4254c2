"""Drawings as SVG, made here: they need no script, and take their colours from the page's style sheet."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from markupsafe import Markup, escape

from durable_bus.web.shown import took

__all__ = [
    "Cell",
    "bars",
    "cell_items",
    "cells_of",
    "heat_map",
    "histogram",
    "runs_strip",
    "thread",
    "timeline",
]

_CELLS_MAX = 400
STATES = ("succeeded", "failed", "in_flight", "forwarded", "waiting", "missing")


def _svg(
    width: int,
    height: int,
    label: str,
    body: Iterable[str],
    *,
    kind: str,
    stretch: bool = False,
    links: bool = False,
    grows: bool = True,
) -> Markup:
    ratio = ' preserveAspectRatio="none"' if stretch else ""
    size = "" if grows else f' width="{width}" height="{height}"'
    role = "group" if links else "img"  # what is in an image is nothing by itself for who hears the page
    return Markup(
        f'<svg class="drawing {kind}" viewBox="0 0 {width} {height}" role="{role}"'
        f' aria-label="{escape(label)}"{ratio}{size}>{"".join(body)}</svg>'
    )


def bars(rates: Sequence[tuple[int, int]], label: str, *, height: int = 72) -> Markup:
    """Results, and on top of them failed attempts, of equal stretches of time; the newest on the right."""
    highest = max((results + failures for results, failures in rates), default=0)
    body = []
    for position, (results, failures) in enumerate(rates):
        top = height - _scaled(results, highest, height)
        if results:
            body.append(_rect("ok", position * 10 + 1, top, 8, height - top))
        if failures:
            failed = _scaled(failures, highest, height)
            body.append(_rect("bad", position * 10 + 1, top - failed, 8, failed))
    body.append(f'<line class="axis" x1="0" x2="{10 * len(rates)}" y1="{height}" y2="{height}"/>')
    return _svg(10 * len(rates), height, label, body, kind="bars", stretch=True)


def _scaled(value: float, highest: float, height: int) -> float:
    """Something is never nothing: at least a pixel."""
    return max(1.0, round(value / highest * (height - 2), 1)) if value and highest else 0.0


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"/>'


# How long items took


def histogram(durations_us: Sequence[int]) -> Markup:
    """By steps of 1, 2 and 5, so that microseconds and minutes fit into one picture."""
    bounds = _bounds(min(durations_us), max(durations_us))
    ordered = sorted(durations_us)
    below = [bisect_left(ordered, bound) for bound in bounds]
    counts = [upper - lower for lower, upper in pairwise([0, *below])]
    highest, height, step = max(counts), 110, max(46, 640 // len(bounds))
    body = []
    for position, count in enumerate(counts):
        top = 90 - _scaled(count, highest, 76)
        low = 0 if position == 0 else bounds[position - 1]
        share = f"{took(low)} to {took(bounds[position])}: {100 * count / len(durations_us):.1f} %"
        body.append(
            f"<g><title>{share}</title>{_rect('ok', position * step + 3, top, step - 6, 90 - top)}</g>"
        )
        body.append(
            f'<text class="mid" x="{position * step + step / 2:g}" y="105">{took(bounds[position])}</text>'
        )
    label = f"How long items took: {len(durations_us)} looked at, from {took(min(durations_us))} to "
    return _svg(step * len(bounds), height, label + took(max(durations_us)), body, kind="histogram")


def _bounds(shortest: int, longest: int) -> list[int]:
    """Upper bounds, the last of them above the longest; 16 at most, the lowest ones are left out."""
    bounds = [step * 10**power for power in range(11) for step in (1, 2, 5)]
    first = max(0, next((n for n, bound in enumerate(bounds) if bound > shortest), len(bounds) - 1))
    last = next((n for n, bound in enumerate(bounds) if bound > longest), len(bounds) - 1)
    return bounds[max(first, last - 15) : last + 1]


# The items of a buffer


class Cell(NamedTuple):
    """Neighbouring items: from which to which, and how many of them are in which state."""

    first: int
    last: int
    counts: dict[str, int]

    @property
    def kind(self) -> str:
        """What fails is seen however little it is, else what most of them are."""
        if self.counts.get("failed"):
            return "failed"
        return max(STATES, key=lambda state: self.counts.get(state, 0))


def cell_items(total: int) -> int:
    """How many items of a buffer a cell stands for."""
    return -(-total // _CELLS_MAX) or 1


def cells_of(
    total: int,
    spans: Iterable[tuple[int, int, int, int, int]],
    stride: int,
    in_hand: Iterable[tuple[int, int]],
    forwarded: Mapping[int, int],
    *,
    ended: bool,
) -> list[Cell]:
    """The items of a buffer in a few cells. Of a sample, counts are estimates. `forwarded`: items that were
    passed on, by cell.
    """
    size = cell_items(total)
    count = -(-total // size)
    done = [[0.0] * count, [0.0] * count]  # failed, succeeded
    for first, items, recorded, success, _ in spans:
        _spread(done[success], size, first, items, recorded / items * stride)
    held = [0.0] * count
    for first, items in in_hand:
        _spread(held, size, first, items, 1.0)
    cells = []
    for position in range(count):
        first, last = position * size, min(total, (position + 1) * size) - 1
        items = last - first + 1
        failed, succeeded = (min(items, math.ceil(done[success][position] - 1e-6)) for success in (0, 1))
        succeeded = min(succeeded, items - failed)
        passed = min(forwarded.get(position, 0), items - failed - succeeded)
        # Of a batch that is in hand some may be done.
        flying = min(round(held[position]), items - failed - succeeded - passed)
        rest = items - failed - succeeded - passed - flying
        counts = {"failed": failed, "succeeded": succeeded, "in_flight": flying, "forwarded": passed}
        counts["missing" if ended else "waiting"] = rest
        cells.append(Cell(first, last, {state: number for state, number in counts.items() if number}))
    return cells


def _spread(cells: list[float], size: int, first: int, items: int, weight: float) -> None:
    end = first + items
    for position in range(first // size, min(len(cells), (end - 1) // size + 1)):
        overlap = min(end, (position + 1) * size) - max(first, position * size)
        cells[position] += overlap * weight


def heat_map(cells: Sequence[Cell], link: Callable[[int], str]) -> Markup:
    """A row of 50 cells after the other. Each leads to its items."""
    columns, side = 50, 14
    body = []
    for position, cell in enumerate(cells):
        x, y = position % columns * side, position // columns * side
        what = ", ".join(f"{number:,} {state.replace('_', ' ')}" for state, number in cell.counts.items())
        items = f"{cell.first:,}" if cell.first == cell.last else f"{cell.first:,} to {cell.last:,}"
        body.append(
            f'<a href="{escape(link(cell.first))}" tabindex="-1"><rect class="s-{cell.kind}" x="{x}" y="{y}"'
            f' width="{side - 2}" height="{side - 2}"><title>{items}: {what}</title></rect></a>'
        )
    rows = -(-len(cells) // columns)
    width = min(len(cells), columns) * side
    return _svg(
        width, rows * side, "Items by state, from the first to the last", body, kind="heat", links=True
    )


# Time


def timeline(
    density: Sequence[tuple[int, int]],
    runs: Sequence[dict[str, object]],
    oldest: int,
    newest: int,
    at: int | None,
) -> Markup:
    """All commits from the left to the right: how much was recorded, where runs began and crashed."""
    width, height = 10 * len(density), 48
    highest = max((results + failures for results, failures in density), default=0)
    body = [
        _rect("ok", position * 10, height - (bar := _scaled(sum(pair), highest, height - 8)), 9, bar)
        for position, pair in enumerate(density)
        if sum(pair)
    ]
    body += _marks(runs, oldest, newest, width, height)
    if at is not None:
        x = _place(at, oldest, newest, width)
        body.append(f'<line class="here" x1="{x}" x2="{x}" y1="0" y2="{height}"/>')
    return _svg(width, height, "Commits, with crashes", body, kind="timeline", stretch=True)


def _place(commit: int, oldest: int, newest: int, width: int) -> float:
    return round((commit - oldest) / max(1, newest - oldest) * width, 1)


def _marks(
    runs: Sequence[dict[str, object]], oldest: int, newest: int, width: int, height: int
) -> Iterable[str]:
    for run in runs:
        first, last = run["first_commit"], run["last_commit"]
        if not isinstance(first, int) or not isinstance(last, int):
            continue  # it has not committed anything
        crashed = run["ended"] == "crashed"
        x = _place(last if crashed else first, oldest, newest, width)
        what = f"run {run['run_id']} crashed after commit {last}" if crashed else f"run {run['run_id']} began"
        kind = "crash" if crashed else "began"
        yield f'<g><title>{what}</title><line class="{kind}" x1="{x}" x2="{x}" y1="0" y2="{height}"/></g>'


def runs_strip(runs: Sequence[dict[str, object]], oldest: int, newest: int) -> Markup:
    """The same as a thin strip behind the slider."""
    width, height = 1000, 10
    body = _marks(runs, oldest, newest, width, height)
    return _svg(width, height, "Commits, with crashes", body, kind="strip", stretch=True)


# Conversations


def thread(messages: Sequence[dict[str, object]], link: Callable[[str], str]) -> Markup:
    """A sequence diagram: a column for each name, a row for each message."""
    names = [
        *dict.fromkeys(str(name) for one in messages for name in (one["from_id"] or "·", one["to_id"] or "·"))
    ]
    names, step = names[:12], 150
    column = {name: position * step + step // 2 for position, name in enumerate(names)}
    height = 44 + 34 * len(messages)
    body = []
    for name, x in column.items():
        shown = name if len(name) <= 18 else f"{name[:8]}…{name[-8:]}"
        body.append(
            f'<text class="mid name" x="{x}" y="14"><title>{escape(name)}</title>{escape(shown)}</text>'
        )
        body.append(f'<line class="axis" x1="{x}" x2="{x}" y1="22" y2="{height - 6}"/>')
    for position, one in enumerate(messages):
        begin = column.get(str(one["from_id"] or "·"), step // 2)
        end = column.get(str(one["to_id"] or "·"), step // 2)
        y = 48 + 34 * position
        kind = str(one["kind"])
        text = escape(kind if len(kind) <= 22 else f"{kind[:21]}…")
        href = escape(link(str(one["message_id"])))
        if begin == end:
            path, x, tip = f"M{begin} {y - 8}h22v14h-16", begin + 28, -1
            anchor = "start"
        else:
            tip = 1 if end > begin else -1
            path, x, anchor = f"M{begin} {y}H{end - 5 * tip}", (begin + end) // 2, "middle"
        head_x, head_y = (end + 6, y + 6) if begin == end else (end, y)
        head = f"M{head_x} {head_y}l{-8 * tip if begin != end else 8} -4v8z"
        body.append(
            f'<g class="m-{one["state"]}"><path class="arrow" d="{path}"/><path class="head" d="{head}"/>'
            f'<a href="{href}"><text x="{x}" y="{y + 2 if begin == end else y - 6}" text-anchor="{anchor}">'
            f"{text}<title>{escape(kind)}, {one['state']}</title></text></a></g>"
        )
    return _svg(
        max(1, len(names)) * step,
        height,
        f"{len(messages)} messages",
        body,
        kind="thread",
        links=True,
        grows=False,
    )
