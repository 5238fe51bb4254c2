"""Ctrl-C at a given moment."""

import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

__all__ = ["interrupt_within"]


def interrupt_within(work: Callable[[], None], module: ModuleType, after_lines: int) -> bool:
    """Ctrl-C before a line of a module is run, so many of its lines on; False: there are not as many."""
    left = after_lines

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return trace if event == "call" else None
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False
