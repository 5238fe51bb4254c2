"""Messages that differ only in numbers, ids and quoted texts have one pattern."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_bus.journal.patterns import PATTERN_CHARS_MAX, message_pattern

UUID = "0193b6a4-5f1e-7c3a-9b7d-2f6a1c0e8d44"


@pytest.mark.parametrize(
    ("message", "pattern"),
    [
        ("", ""),
        ("ValueError: no file 17", "ValueError: no file #"),
        ("after 3.5 s of 10", "after #.# s of #"),
        ("item3 of job-12", "item# of job-#"),
        (f"no row {UUID}", "no row #"),
        (f"no row {UUID.upper()}!", "no row #!"),
        ("at 0x7f5256392710>", "at #>"),
        ("commit 4cf6727a is gone", "commit # is gone"),
        ("sha deadbeef00 and effaced", "sha # and effaced"),
        ("KeyError: 'a b'", "KeyError: '…'"),
        ('no "x" and no `y` and no “z” or «w»', "no '…' and no '…' and no '…' or '…'"),
        ("''", "'…'"),
        ("can't find 'it's", "can't find 'it's"),
        ("user's 'name' isn't 5", "user's '…' isn't #"),
        ("it quotes 'without end 7", "it quotes 'without end #"),
        ("two\n  lines\tand 1", "two lines and #"),
        ("'a' and 'b'", "'…' and '…'"),
    ],
)
def test_a_pattern(message: str, pattern: str) -> None:
    assert message_pattern(message) == pattern


def test_a_long_message_is_cut() -> None:
    pattern = message_pattern("long " * 1000)
    assert len(pattern) == PATTERN_CHARS_MAX
    assert pattern.endswith("…")
    assert len(message_pattern("'" + "x" * 10_000)) == PATTERN_CHARS_MAX


@given(st.text(alphabet="ab '\"`#0129fe-…\n\0x", max_size=300))
def test_a_pattern_is_one_short_line(message: str) -> None:
    pattern = message_pattern(message)
    assert len(pattern) <= PATTERN_CHARS_MAX
    assert len(pattern.splitlines()) <= 1
    assert not any(digit in pattern for digit in "0129")
