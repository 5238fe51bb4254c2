"""The supervisor's log: one line an event on stderr, key=value or JSON.

A thread of its own writes: a blocked stderr (an undrained pipe, a stopped terminal) never stops the
supervisor. What does not fit in the queue meanwhile is dropped, and counted.
"""

import json
import os
import queue
import select
import threading
from datetime import UTC, datetime
from typing import Any

__all__ = ["Log"]

_LINES_MAX = 1000
_LOOK_AGAIN_S = 1.0


class Log:
    """`log("worker ended", pid=17)` becomes `2026-11-01T10:00:00.000Z worker ended pid=17`."""

    def __init__(self, fd: int = 2, log_format: str = "text", *, quiet: bool = False) -> None:
        self._fd = fd
        self._format = log_format
        self._quiet = quiet
        self._lines: queue.Queue[str | None] = queue.Queue(_LINES_MAX)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_forever, name="durable_bus log", daemon=True)
        if not quiet:
            self._thread.start()

    def __call__(self, event: str, **facts: Any) -> None:
        if self._quiet:
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._dropped:
            facts["dropped_lines"] = self._dropped
        if self._format == "json":
            line = json.dumps({"at": at, "event": event, **facts}, default=str)
        else:
            line = " ".join([at, event, *(f"{key}={_value(value)}" for key, value in facts.items())])
        try:
            self._lines.put_nowait(line)
            self._dropped = 0
        except queue.Full:
            self._dropped += 1

    def _write_forever(self) -> None:
        while (line := self._lines.get()) is not None:
            left = line.encode("utf-8", "replace") + b"\n"
            while left:
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:  # whoever shares our stderr has made it so
                    select.select([], [self._fd], [], _LOOK_AGAIN_S)
                except OSError:
                    return

    def close(self, wait_s: float = 0.5) -> None:
        """Give the last lines a moment to leave."""
        if not self._quiet:
            try:
                self._lines.put_nowait(None)
            except queue.Full:
                return
            self._thread.join(wait_s)


def _value(value: Any) -> str:
    text = str(value)
    plain = text.isprintable() and not any(char in text for char in ' "=') and text
    return text if plain else json.dumps(text, ensure_ascii=False)
