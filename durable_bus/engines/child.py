"""What a process that an engine starts does first, before it runs any batch."""

import os

from durable_bus.worker.beginning import die_with

__all__ = ["live_with"]


def live_with(parent_pid: int) -> int:
    """Die with the engine process, see `die_with`. Return the process's id."""
    die_with(parent_pid)
    return os.getpid()
