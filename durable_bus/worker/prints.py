"""What handlers print, with `--log-format json`: a line of the log for each line, which says whose it is.

Nothing of this runs for an item that prints nothing: what runs is looked up when somebody prints. What does
not go through `sys.stdout` and `sys.stderr`, such as the output of a program that a handler starts, stays as
it is.
"""

import contextvars
import io
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from durable_bus.wire.log_lines import json_line
from durable_bus.wire.work import Work, WorkMessage

__all__ = ["RUNNING", "Prints"]

_LINE_CHARS_MAX = 64 * 1024
"""What has no end is a line all the same, such as a progress bar's."""

Running = tuple[Work, int]
"""A frame of work, and the index of the item of it that runs."""

RUNNING: contextvars.ContextVar[Running | None] = contextvars.ContextVar("durable_bus running", default=None)
"""What runs in this async context: also in tasks that a handler starts, and in `asyncio.to_thread`."""


class Prints(io.TextIOWrapper):
    """In the place of `sys.stdout` or `sys.stderr`. A line leaves in one write, when it is whole."""

    installed = False
    """Whether this process has them."""

    def __init__(self, name: str) -> None:
        super().__init__(getattr(sys, name).buffer, encoding="utf-8", newline="\n")
        self._stream_name = name
        self._own = threading.local()
        self._main_thread = threading.get_ident()
        self._at_work: Callable[[], Running | None] = lambda: None

    @classmethod
    def install(cls) -> "list[Prints]":
        """Before the app is imported, as `logging` keeps the stream that it finds then."""
        cls.installed = True
        sys.stdout, sys.stderr = both = [cls("stdout"), cls("stderr")]
        return both

    def name_items(self, at_work: Callable[[], Running | None]) -> None:
        """From now on there is a runner. `at_work`: what sync handlers run on the main thread."""
        self._at_work = at_work

    def write(self, text: str) -> int:
        unended = getattr(self._own, "line", "")
        *lines, line = (unended + text).split("\n")
        if len(line) > _LINE_CHARS_MAX:
            lines.append(line)
            line = ""
        self._own.line = line
        if lines:
            super().write("".join(f"{self._line(one)}\n" for one in lines))
            super().flush()
        return len(text)

    def _line(self, text: str) -> str:
        facts: dict[str, Any] = {"pid": os.getpid()}
        running = self._running()
        if running is not None:
            work, index = running
            if isinstance(work, WorkMessage):
                facts["message"] = work.message_id
            else:
                facts |= {"buffer": work.buffer_id, "item": index}
        return json_line(
            time.time_ns(), "info", "printed", {**facts, "stream": self._stream_name, "text": text}
        )

    def _running(self) -> Running | None:
        """Of a thread that a handler has started nobody knows for which item it works."""
        is_main = threading.get_ident() == self._main_thread
        return (self._at_work() if is_main else None) or RUNNING.get()
