"""Columns of `top`: wide enough, as long as there is room; they go in order, and do not move to and fro."""

import pytest

from durable_bus.cli.columns import GAP, Column, Widths, rows_of_each

NAMES = Column("name", ["a-buffer-with-a-long-name", "b"], least=10)
RATE = Column("rate", ["1.0/s", "1,000/s"], goes=2, usual=8, right=True)
WAITS = Column("waits", ["limit openai, 12 s", ""], goes=1, least=8)


def taken(widths: list[int]) -> int:
    return sum(width + GAP for width in widths if width)


def test_each_has_what_it_wants_where_there_is_room() -> None:
    assert Widths().fit([NAMES, RATE, WAITS], 100) == [25, 8, 18]


@pytest.mark.parametrize("room", range(5, 200, 5))
def test_they_never_take_more_than_there_is(room: int) -> None:
    assert taken(Widths().fit([NAMES, RATE, WAITS], room)) <= room


def test_they_go_in_their_order_and_the_first_one_stays() -> None:
    shown = [[bool(width) for width in Widths().fit([NAMES, RATE, WAITS], room)] for room in (40, 25, 12, 6)]
    assert shown == [[True, True, True], [True, False, True], [True, False, False], [True, False, False]]
    assert Widths().fit([NAMES, RATE, WAITS], 6)[0] == 6 - GAP


def test_what_is_spare_is_there_only_where_all_others_have_what_they_want() -> None:
    bar = Column("", ["-"], goes=3, least=10, usual=40, is_spare=True)
    wanted = 25 + GAP + 8 + GAP
    assert Widths().fit([NAMES, bar, RATE], wanted + 10) == [25, 0, 8]
    assert Widths().fit([NAMES, bar, RATE], wanted + 10 + GAP) == [25, 10, 8]
    assert Widths().fit([NAMES, bar, RATE], 200) == [25, 40, 8]


def test_who_has_nothing_to_say_is_left_out_until_it_has_and_stays_then() -> None:
    widths = Widths()
    quiet = WAITS._replace(cells=["", ""])
    assert widths.fit([NAMES, RATE, quiet], 100)[2] == 0
    assert widths.fit([NAMES, RATE, WAITS], 100)[2] > 0
    assert widths.fit([NAMES, RATE, quiet], 100)[2] > 0


def test_a_column_does_not_become_narrower() -> None:
    widths = Widths()
    before = widths.fit([NAMES, RATE], 100)
    assert widths.fit([NAMES._replace(cells=["b", "c"]), RATE], 100) == before


def test_characters_that_take_two_cells_are_counted_as_two() -> None:
    assert Widths().fit([Column("limit", ["限制限制"]), Column("x", ["y"])], 100)[0] == 8


def test_all_tables_share_the_lines() -> None:
    assert rows_of_each([3, 2, 2, 1], [4, 2, 2, 1], 40) == [3, 2, 2, 1]
    rows = rows_of_each([100, 3, 8, 5], [4, 2, 2, 1], 22)
    assert rows == [7, 3, 5, 3]
    assert sum(rows) + 4 == 22


@pytest.mark.parametrize("lines", range(2, 40))
def test_they_never_have_more_lines_than_there_are(lines: int) -> None:
    rows = rows_of_each([100, 3, 8, 5], [min(4, lines - 1), 2, 2, 1], lines)
    assert sum(count + 1 for count in rows if count) <= lines
    assert rows[0]


def test_where_there_is_too_little_room_the_last_tables_go() -> None:
    assert rows_of_each([9, 3, 8, 5], [4, 2, 2, 1], 8) == [4, 2, 0, 0]
