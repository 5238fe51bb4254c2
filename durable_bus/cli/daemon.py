"""A client of the daemon, for commands that may be typed before it is there."""

import time
from pathlib import Path

from durable_bus.cli.printing import note
from durable_bus.client.client import Client
from durable_bus.errors import JournalUnreachable

__all__ = ["client_of_daemon"]

_LOOK_EVERY_S = 0.1
_SAY_SO_AFTER_S = 1.0


def client_of_daemon(journal: Path, wait_s: float, name: str | None = None) -> Client:
    """A client, as soon as a daemon serves the journal. Raises JournalUnreachable when none does within
    `wait_s` seconds, and what else `Client` raises at once.
    """
    begun_s = time.monotonic()
    has_said = False
    while True:
        try:
            return Client(journal, name=name)
        except JournalUnreachable:
            waited_s = time.monotonic() - begun_s
            if waited_s >= wait_s:
                raise
            if not has_said and waited_s > _SAY_SO_AFTER_S:
                has_said = True
                note(f"nobody serves {journal} yet; waiting for a daemon, {wait_s:g} s at most")
            time.sleep(min(_LOOK_EVERY_S, wait_s - waited_s))
