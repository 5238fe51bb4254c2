"""Columns that hold several values: the key of an item and of its result, and the durations of an answer."""

import struct

__all__ = ["DURATION_DIGITS", "INDEX_BITS", "micros_of", "milliseconds", "packed"]

INDEX_BITS = 32
"""A key is `buffer_seq << INDEX_BITS | item_index`."""
DURATION_DIGITS = 10


class _Milliseconds(dict[bytes, float]):
    """Milliseconds by the digits of a duration. Each text is converted once: 0.08 µs instead of 0.14."""

    def __missing__(self, digits: bytes) -> float:
        value = self[digits] = float(digits) / 1000.0
        return value


def packed(micros: list[int]) -> str:
    """Durations as an answer's row has them: ten digits of microseconds each, 9,999,999,999 at most.

    Each value is written once: 2,000 of fast items, which took 4 µs, 5 or 6, take 0.05 µs each instead of
    0.12, and 0.4 if all differed.
    """
    texts = {one: f"{one:0{DURATION_DIGITS}d}" for one in set(micros)}
    text = "".join([texts[one] for one in micros])
    if len(text) > DURATION_DIGITS * len(micros):
        return packed([min(one, 10**DURATION_DIGITS - 1) for one in micros])
    return text


def milliseconds(durations: str) -> list[float]:
    """The milliseconds that `packed` has written. Empty for an early version, with eleven digits."""
    if len(durations) % DURATION_DIGITS:
        return []
    fields = struct.unpack(f"{DURATION_DIGITS}s" * (len(durations) // DURATION_DIGITS), durations.encode())
    return list(map(_Milliseconds().__getitem__, fields))


def micros_of(durations: str) -> list[int]:
    """The microseconds that `packed` was given, in the same way."""
    if len(durations) % DURATION_DIGITS:
        return []
    return [int(durations[at : at + DURATION_DIGITS]) for at in range(0, len(durations), DURATION_DIGITS)]
