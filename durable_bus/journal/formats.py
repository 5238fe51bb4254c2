"""How numbers stand in the journal: the key of an item and of its result, and the durations of an answer."""

import itertools
import operator
import struct

__all__ = ["INDEX_BITS", "milliseconds", "packed"]

INDEX_BITS = 32
"""A key is `buffer_seq << INDEX_BITS | item_index`."""
_DURATION_DIGITS = 10


def packed(micros: list[int]) -> str:
    """Durations as an answer's row has them: ten digits of microseconds each, so 2 h 46 min and whatever took
    longer are 9,999,999,999.
    """
    text = (f"%0{_DURATION_DIGITS}d" * len(micros)) % tuple(micros)
    if len(text) > _DURATION_DIGITS * len(micros):
        return packed([min(one, 10**_DURATION_DIGITS - 1) for one in micros])
    return text


def milliseconds(durations: str) -> list[float]:
    """What `packed` has made, as numbers; none where a row says something else, as an earlier version did of
    items that took more than 2 h 46 min.
    """
    if len(durations) % _DURATION_DIGITS:
        return []
    fields = struct.unpack(f"{_DURATION_DIGITS}s" * (len(durations) // _DURATION_DIGITS), durations.encode())
    return list(map(operator.truediv, map(float, fields), itertools.repeat(1000.0)))
