"""Whether two pickles are of the same value: a set of str is pickled in another order in every process, and
a str that stands in two places is written once or twice, as it is one object or two.
"""

from __future__ import annotations

import base64
import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

__all__ = ["Canonical", "are_same", "canonical"]


class Canonical(pickle._Pickler):  # the one in Python: C's cannot be told this
    """Nobody loads what it writes."""

    dispatch: ClassVar[dict[type, Callable[[Any, Any], None]]] = dict(pickle._Pickler.dispatch)

    def memoize(self, value: object) -> None:
        if type(value) is not str and type(value) is not bytes:
            super().memoize(value)  # type: ignore[misc]

    def _save_set(self, value: set[Any] | frozenset[Any]) -> None:
        self.save((type(value).__name__, tuple(sorted(map(_written, value)))))  # type: ignore[attr-defined]

    dispatch[set] = dispatch[frozenset] = _save_set


def _written(value: object) -> bytes:
    file = io.BytesIO()
    Canonical(file, protocol=5).dump(value)
    return file.getvalue()


def canonical(value: object, text: str) -> str:
    """The same for equal values in every process, of a value that is pickled as this text. Never raises:
    where it is too deep, it is the text.
    """
    try:
        return base64.b64encode(_written(value)).decode()
    except Exception:  # it runs code of the value's
        return text


def are_same(one: str, other: str) -> bool:
    """Whether two texts that are pickles are of the same value. They are loaded: that is code."""
    if one == other:
        return True
    try:
        values = [pickle.loads(base64.b64decode(text)) for text in (one, other)]
    except Exception:
        return False
    return canonical(values[0], one) == canonical(values[1], other)
