"""The four forms of a payload: numbers on the wire and in the journal's tables, words for people."""

from collections.abc import Sequence
from typing import Final

__all__ = ["FORM_NAMES", "JSON", "PICKLE", "TEXT", "XML", "digits_of", "form_of_each"]

TEXT: Final = 0
XML: Final = 1
JSON: Final = 2
PICKLE: Final = 3
"""Base64 of a pickle. Only workers of a bus that asks for pickles load it, and a client's `Result.value`."""

FORM_NAMES: Final = ("text", "xml", "json", "pickle")
"""Indexed by the number: the column `form` of the views, and `Result.form`."""

_DIGITS: Final = bytes([*b"0123", *range(4, 256)])


def digits_of(forms: bytes) -> str:
    """The forms of neighbouring payloads, a byte each, as frames say them: one digit if they are all alike,
    else a digit each.
    """
    if forms.count(forms[:1]) == len(forms):
        forms = forms[:1]
    return forms.translate(_DIGITS).decode()


def form_of_each(digits: str, count: int) -> Sequence[int]:
    """The form of each of `count` payloads, from what `digits_of` says. Raises ValueError for other digits,
    and for another number of them.
    """
    if len(digits) not in (1, count) or digits.strip("0123"):
        raise ValueError(f"{digits:.20} are not the forms of {count} payloads")
    return [int(digits)] * count if len(digits) == 1 else list(map(int, digits))
