"""What tests have engines run: functions that any process of an engine can import."""

import os
import signal
import threading
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

__all__ = ["backwards", "die", "die_at_first", "die_while_answering", "make_pool", "pid", "wait_for"]


def backwards(payload: bytes) -> bytes:
    return payload[::-1]


def pid() -> int:
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_first(mark: str) -> str:
    """Die, but not where the mark is there already."""
    path = Path(mark)
    if path.exists():
        return "second"
    path.touch()
    die()
    return "never"


def die_while_answering(size: int) -> bytes:
    """Return so much that the process is dead before all of it is written."""
    threading.Timer(0.1, die).start()
    return bytes(size)


def wait_for(mark: str, begun: str = "") -> str:
    """Say that it runs, then run until the mark is there."""
    if begun:
        Path(begun).write_text(str(os.getpid()))
    while not Path(mark).exists():
        time.sleep(0.01)
    return "done"


def make_pool() -> Executor:
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))
