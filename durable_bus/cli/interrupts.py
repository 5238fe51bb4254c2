"""Signals that end a command as Ctrl-C does."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn


@contextlib.contextmanager
def interrupted_by(*numbers: signal.Signals) -> Iterator[None]:
    """Each of these raises KeyboardInterrupt: SIGTERM, which `timeout` and a stopping system send, or SIGHUP
    of a terminal that closes. Their handlers are as before afterwards.
    """

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupts_noted(*numbers: signal.Signals) -> Iterator[Callable[[], bool]]:
    """The same signals end nothing by themselves: what this yields says whether one of them has come, for who
    must not be ended between two steps.
    """
    noted: list[int] = []
    before = {number: signal.signal(number, lambda number, _: noted.append(number)) for number in numbers}
    try:
        yield lambda: bool(noted)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
