"""A mapping whose changes can be undone, for `state`."""

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec.structs import replace

__all__ = ["ABSENT", "Table"]

K = TypeVar("K")
V = TypeVar("V")

ABSENT = object()
"""In the place of a value where there was none."""


class Table(dict[K, V]):
    """A mapping of immutable values that can be rolled back. Only `table[key] = value`, `change` and
    `discard` change it.
    """

    def __init__(self, note: Callable[[tuple[dict[Any, Any], Any, object]], None]) -> None:
        super().__init__()
        self._note = note

    def __setitem__(self, key: K, value: V) -> None:
        self._note((self, key, self.get(key, ABSENT)))
        super().__setitem__(key, value)

    def change(self, key: K, **changes: object) -> V:
        """The same value with some fields changed; the value as it is now."""
        self[key] = replace(self[key], **changes)  # type: ignore[type-var]
        return self[key]

    def discard(self, key: K) -> V | None:
        """Remove a key, which may be absent; the value it had."""
        value = self.get(key)
        if value is not None:
            self._note((self, key, value))
            del self[key]
        return value
