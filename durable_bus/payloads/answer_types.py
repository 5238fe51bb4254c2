"""Answers that a return annotation promises and that cannot be written: said at import, and not when the
first handler has done its work.
"""

from __future__ import annotations

import datetime
import decimal
import types
import typing
import uuid
from collections.abc import Collection, Iterator
from typing import Any, Final

from durable_bus.errors import UsageError
from durable_bus.payloads.json_values import is_path

__all__ = ["check_answer"]

_NEVER_JSON: Final = (set, frozenset, bytearray, memoryview, complex, range, types.GeneratorType)
"""Nor inside of anything."""
_NOT_BY_ITSELF: Final = (
    bytes, datetime.datetime, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID,
)  # fmt: skip
"""JSON inside a list, dict or model; by itself nothing says which of several texts it should be."""
_UNIONS: Final = (typing.Union, types.UnionType)


def check_answer(annotation: Any) -> None:
    """Raise UsageError when every answer that this return annotation promises would be refused, for a bus
    that does not pickle. What cannot be judged, such as a Protocol or a TypeVar, passes.
    """
    wrong = next(_refused(annotation, inside=False), None)
    if wrong is not None:
        raise UsageError(wrong)


def _refused(annotation: Any, inside: bool) -> Iterator[str]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _refused(arguments[0], inside)
    elif origin in _UNIONS:
        for member in arguments:
            yield from _refused(member, inside)
    else:
        kind = annotation if origin is None else origin
        if not isinstance(kind, type):
            return
        if issubclass(kind, _NEVER_JSON):
            yield f"an answer of {kind.__name__} cannot be written: answer a list, or make it a str"
        elif not inside and (issubclass(kind, _NOT_BY_ITSELF) or is_path(kind)):
            yield f"an answer of {kind.__name__} by itself cannot be written: answer a str, or a dict of it"
        elif issubclass(kind, dict) and arguments and _is_no_str(arguments[0]):
            yield f"an answer of {annotation} cannot be written as JSON: its keys must be str"
        elif issubclass(kind, (dict, list, tuple)) or (kind is Collection):
            for member in arguments:
                yield from _refused(member, inside=True)


def _is_no_str(annotation: Any) -> bool:
    return annotation is not Any and isinstance(annotation, type) and not issubclass(annotation, str)
