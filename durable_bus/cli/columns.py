"""The columns of a table that is drawn again and again: how wide each one is, and which have no room.

A column keeps the width that it once needed. So nothing moves to and fro while numbers change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from rich.console import RenderableType

GAP = 1
"""Cells of the terminal behind each column."""


class Column(NamedTuple):
    """A heading, and what stands below it. Widths are cells of the terminal."""

    heading: str
    cells: Sequence[RenderableType]
    goes: int = 0
    """Where there is too little room, columns with a higher number go first. 0: it stays."""
    least: int | None = None
    """With less it says nothing; None: it needs all that it wants."""
    usual: int = 0
    """What it wants from the start, so that it need not grow soon."""
    right: bool = False
    is_spare: bool = False
    """It is there only where all others have what they want."""
    is_name: bool = False
    """Where it is cut, it is in its middle: what differs is often the end."""
    only_on: Literal["screen", "page", ""] = ""
    """Where it stands; a page is what a pipe gets. Empty: on both."""


class Widths:
    """Those of one table, which remembers how wide its columns were."""

    def __init__(self) -> None:
        self._widest: dict[int, int] = {}

    def fit(self, columns: Sequence[Column], room: int) -> list[int]:
        """A width for each column, gaps not counted; 0: it is left out, as is who never had a word to say."""
        wanted = [self._wanted(number, column) for number, column in enumerate(columns)]
        least = [
            want if column.least is None else min(want, column.least)
            for want, column in zip(wanted, columns, strict=True)
        ]
        by_rank = sorted(
            (number for number, want in enumerate(wanted) if want), key=lambda n: columns[n].goes
        )
        while len(by_rank) > 1 and sum(least[number] + GAP for number in by_rank) > room:
            by_rank.pop()
        while len(by_rank) > 1 and columns[by_rank[-1]].is_spare:
            *others, spare = by_rank
            if sum(wanted[number] + GAP for number in others) + least[spare] + GAP <= room:
                least = [least[number] if number == spare else want for number, want in enumerate(wanted)]
                break
            by_rank = others
        widths = [least[number] if number in by_rank else 0 for number in range(len(columns))]
        left = room - sum(width + GAP for width in widths if width)
        if left < 0:  # one column is left, and has no more
            widths[by_rank[0]] += left
        while left > 0 and (growing := [number for number in by_rank if widths[number] < wanted[number]]):
            for number in growing[:left]:
                widths[number] += 1
            left -= len(growing)
        return widths

    def _wanted(self, number: int, column: Column) -> int:
        says = max(map(_cells, column.cells), default=0)
        if not says and number not in self._widest and not column.usual:
            return 0
        widest = max(self._widest.get(number, 0), column.usual, _cells(column.heading), says)
        self._widest[number] = widest
        return widest


def _cells(cell: RenderableType) -> int:
    """How wide a text is. What is drawn, such as a bar, is as wide as its column."""
    from rich.cells import cell_len

    return cell_len(str(cell)) if isinstance(cell, str) or hasattr(cell, "plain") else 0


def rows_of_each(wanted: Sequence[int], least: Sequence[int], lines: int) -> list[int]:
    """How many rows each table has on a screen of so many lines; each that has any has a heading, too.

    First all get as much as `least`; where that is too much, the last ones get nothing. Then they grow in
    turn, until all have what they want.
    """
    rows = [min(want, few) for want, few in zip(wanted, least, strict=True)]
    for number in reversed(range(len(rows))):
        if number and sum(count + 1 for count in rows if count) > lines:
            rows[number] = 0
    left = lines - sum(count + 1 for count in rows if count)
    while left > 0 and (growing := [n for n, count in enumerate(rows) if 0 < count < wanted[n]]):
        for number in growing[:left]:
            rows[number] += 1
        left -= len(growing)
    return rows
