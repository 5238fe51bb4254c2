"""Memory that changes only when a commit has happened.

The supervisor decides inside a commit and acts after it. What it decides must already count for the next
decision of the same commit, and must be forgotten when the commit is refused (a full disk). So its memory is
mappings of immutable values with the changes of the current commit laid over them.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar, cast

__all__ = ["Staged"]

K = TypeVar("K")
V = TypeVar("V")

_GONE = object()


class Staged(Generic[K, V]):
    """A mapping whose changes become lasting with `commit()` and disappear with `rollback()`. Values:
    immutable only.
    """

    def __init__(self) -> None:
        self._lasting: dict[K, V] = {}
        self._changes: dict[K, object] = {}

    def get(self, key: K) -> V | None:
        value = self._changes.get(key, self)
        if value is self:
            return self._lasting.get(key)
        return None if value is _GONE else cast(V, value)

    def __getitem__(self, key: K) -> V:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: K, value: V) -> None:
        self._changes[key] = value

    def __contains__(self, key: K) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        return sum(1 for _ in self.keys())

    def pop(self, key: K) -> V | None:
        value = self.get(key)
        if value is not None:
            self._changes[key] = _GONE
        return value

    def keys(self) -> Iterator[K]:
        """Keys in the order they came. The mapping must not change while this is read."""
        for key in self._lasting:
            if self._changes.get(key) is not _GONE:
                yield key
        for key, value in self._changes.items():
            if value is not _GONE and key not in self._lasting:
                yield key

    def values(self) -> list[V]:
        """In the order of their keys."""
        if not self._changes:
            return list(self._lasting.values())
        return [cast(V, value) for value in {**self._lasting, **self._changes}.values() if value is not _GONE]

    def commit(self) -> None:
        if not self._changes:
            return
        for key, value in self._changes.items():
            if value is _GONE:
                self._lasting.pop(key, None)
            else:
                self._lasting[key] = cast(V, value)
        self._changes.clear()

    def rollback(self) -> None:
        self._changes.clear()
