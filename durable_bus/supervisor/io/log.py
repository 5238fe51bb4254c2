"""The supervisor's log: one line an event on stderr, key=value or JSON.

A thread of its own writes: a blocked stderr (an undrained pipe, a stopped terminal) never stops the
supervisor. What does not fit in the queue meanwhile is dropped, and counted.
"""

import json
import os
import re
import select
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from durable_bus.wire.log_lines import Level, json_line, stamp

__all__ = ["ERRORS", "UNTOLD", "UNTOLD_ONCE_READY", "WARNINGS", "Log", "SparingLog", "level_of"]

ERRORS = frozenset(
    {
        "cannot accept clients",
        "engine cannot be had",
        "no room on disk",
        "stopped without a word in the journal",
        "worker cannot import the app",
    }
)
"""The daemon cannot do its work until somebody does something."""
WARNINGS = frozenset(
    {
        "batches late",
        "batches lost",
        "batches returned",
        "buffer given up",
        "buffer paused",
        "cannot start a worker",
        "client cut off",
        "client refused",
        "network file system",
        "silent connections dropped",
        "worker ended",
    }
)
"""Something has gone wrong, or waits for somebody, and the rest goes on. A worker that was `retired`, as
another one has taken its place, is none of these. All other events are `info`.
"""
UNTOLD = frozenset({"cannot start a worker", "no room on disk", "room on disk again"})
"""Of a supervisor of a client's own: for these its user would wait and not know it. All else the client is
told, or reads in the journal.
"""
UNTOLD_ONCE_READY = frozenset({"engine cannot be had", "worker cannot import the app"})
"""The same, when workers have been ready: before that a start is refused for it."""
_READY = frozenset({"engine ready", "worker ready"})

_NAME = re.compile(r"[A-Za-z0-9_.:/-]+").fullmatch
_NAME_OF_ONES_OWN = "durable_bus:"
_ERASE_LINE = "\r\x1b[K"
"""On a terminal the client may have drawn a bar, and left the cursor behind it."""
_LINES_MAX = 1000
_LOOK_AGAIN_S = 1.0
_GATHER_S = 0.02
_SAY_AGAIN_S = 10.0


class Log:
    """`log("worker ended", pid=17)` becomes `2026-11-01T10:00:00.000Z worker ended pid=17`."""

    def __init__(self, fd: int = 2, log_format: str = "text", *, untold_only: bool = False) -> None:
        """`untold_only`: for a supervisor of a client's own, which shares the client's stderr."""
        self._fd = fd
        self._format = log_format
        self._only = UNTOLD if untold_only else None
        self._name = f"{_ERASE_LINE if os.isatty(fd) else ''}{_NAME_OF_ONES_OWN}"
        self._events: deque[tuple[int, str, dict[str, Any]]] = deque()
        self._dropped = 0
        self._something = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_forever, name="durable_bus log", daemon=True)
        self._thread.start()

    def __call__(self, event: str, **facts: Any) -> None:
        if self._only is not None and event not in self._only:
            if event in _READY:
                self._only = UNTOLD | UNTOLD_ONCE_READY
            return
        if len(self._events) >= _LINES_MAX:
            self._dropped += 1
            return
        if self._dropped:
            facts["dropped_lines"], self._dropped = self._dropped, 0
        self._events.append((time.time_ns(), event, facts))
        self._something.set()

    def _line(self, at_ns: int, event: str, facts: dict[str, Any]) -> str:
        if self._format == "json":
            return json_line(at_ns, level_of(event, facts), event, facts)
        begins = stamp(at_ns) if self._only is None else self._name
        return " ".join([begins, event, *(f"{key}={_value(value)}" for key, value in facts.items())])

    def _write_forever(self) -> None:
        """Lines that come close together leave in one write."""
        while not self._closing.is_set() or self._events:
            self._something.wait()
            self._closing.wait(_GATHER_S)
            self._something.clear()
            lines = [self._line(*self._events.popleft()) for _ in range(len(self._events))]
            left = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
            while left:
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:  # whoever shares our stderr has made it so
                    select.select([], [self._fd], [], _LOOK_AGAIN_S)
                except OSError:
                    return

    def close(self, wait_s: float = 0.5) -> None:
        """Give the last lines a moment to leave."""
        self._closing.set()
        self._something.set()
        self._thread.join(wait_s)


class SparingLog:
    """A log for what clients cause: of a flood of the same event one line every ten seconds, with their
    number.
    """

    def __init__(self, log: Callable[..., None], now_s: Callable[[], float]) -> None:
        self._log = log
        self._now_s = now_s
        self._unsaid: Counter[str] = Counter()
        self._say_at_s: dict[str, float] = {}

    def __call__(self, event: str, **facts: Any) -> None:
        self._unsaid[event] += 1
        now_s = self._now_s()
        if now_s >= self._say_at_s.get(event, now_s):
            self._say_at_s[event] = now_s + _SAY_AGAIN_S
            times = self._unsaid.pop(event)
            self._log(event, **facts, **({"times": times} if times > 1 else {}))


def level_of(event: str, facts: Mapping[str, Any]) -> Level:
    """How bad it is."""
    if event in ERRORS:
        return "error"
    return "warning" if event in WARNINGS and not facts.get("retired") else "info"


def _value(value: Any) -> str:
    text = str(value)
    if _NAME(text):
        return text
    plain = text.isprintable() and not any(char in text for char in ' "=') and text
    return text if plain else json.dumps(text, ensure_ascii=False)
