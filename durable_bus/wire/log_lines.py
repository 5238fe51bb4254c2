"""A line of the log as JSON: the supervisor's own, and what handlers print."""

import json
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

__all__ = ["Level", "json_line", "stamp"]

Level = Literal["info", "warning", "error"]


def json_line(at_ns: int, level: Level, event: str, facts: Mapping[str, Any]) -> str:
    """One line, ASCII, without its line feed."""
    return json.dumps({"at": stamp(at_ns), "level": level, "event": event, **facts}, default=str)


def stamp(at_ns: int) -> str:
    """A time since the epoch as `2026-11-01T10:00:00.000Z`."""
    return f"{_second(at_ns // 10**9)}.{at_ns // 10**6 % 1000:03}Z"


@lru_cache(maxsize=2)
def _second(at_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s))
