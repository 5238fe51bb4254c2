"""What the fields of a client's request may be: their types, checked before anything is done with them.

A field's name means the same in every request, so one table holds for all of them. What JSON can hold beside
that (a number as a buffer's id) would otherwise be turned into text in some places and not in others.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from durable_bus.errors import UsageError

__all__ = ["check_fields"]


class _Type(NamedTuple):
    """A type of fields, as it is told, and whether a value is of it."""

    told: str
    holds: Callable[[object], bool]


_TEXT = _Type("text", lambda value: type(value) is str)
_TEXT_OR_NONE = _Type("text", lambda value: value is None or type(value) is str)
_WHOLE_NUMBER = _Type("a whole number", lambda value: type(value) is int)
_TRUE_OR_FALSE = _Type("true or false", lambda value: type(value) is bool)


def _is_numbers(value: object) -> bool:
    return isinstance(value, list) and {*map(type, value)} <= {int}


_WHOLE_NUMBERS = _Type("a list of whole numbers", _is_numbers)
_WHOLE_NUMBERS_OR_NONE = _Type(_WHOLE_NUMBERS.told, lambda value: value is None or _is_numbers(value))

_FIELDS = {
    "request": _TEXT,
    # starting a buffer
    "buffer_id": _TEXT,
    "target": _TEXT,
    "return_to": _TEXT_OR_NONE,
    "retry_of": _TEXT_OR_NONE,
    "collect": _TRUE_OR_FALSE,
    "total": _WHOLE_NUMBER,
    "digest": _TEXT,
    "number": _WHOLE_NUMBER,
    "count": _WHOLE_NUMBER,
    "form": _WHOLE_NUMBER,
    "exceptions": _WHOLE_NUMBERS,
    # messages
    "to": _TEXT,
    "message_id": _TEXT,
    "payload": _TEXT,
    "is_xml": _TRUE_OR_FALSE,
    "success": _TRUE_OR_FALSE,
    # all else
    "needs_app": _TRUE_OR_FALSE,
    "journal": _WHOLE_NUMBERS_OR_NONE,
    "before_ms": _WHOLE_NUMBER,
    "after": _WHOLE_NUMBERS_OR_NONE,
}


def check_fields(header: dict[str, Any]) -> None:
    """Raises UsageError for a field whose value is not of the type that its name stands for. Who reads a
    field that must be there finds out itself when it is not.
    """
    for name, value in header.items():
        wanted = _FIELDS.get(name)
        if wanted is not None and not wanted.holds(value):
            raise UsageError(f"field {name} must be {wanted.told}, not {value!r:.100}")
