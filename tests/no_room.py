"""A process that has no room for one more file, and so for no worker."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_room(pid: int, limit: int = 3) -> Iterator[None]:
    """A process may open no file meanwhile that would have the number `limit`. What it has open stays so."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
