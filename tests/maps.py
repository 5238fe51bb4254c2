"""Calls of `map`, for tests."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apps import mapping

from durable_bus import map as durable_map


class Source:
    """Numbers, and how many of them were read."""

    def __init__(self, end: int = sys.maxsize) -> None:
        self.end = end
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        while self.read < self.end:
            self.read += 1
            yield self.read - 1


def mapped(journal: Path, items: Any, function: Any = mapping.square, **options: Any) -> list[Any]:
    return list(durable_map(function, items, journal=journal, workers=1, **options))
