"""A daemon that a test has changed: it kills itself at a chosen commit, or writes down every change of state.

    python watched_daemon.py '{"journal": …, "app": …, "die_at": 7, "when": "after", "states": PATH}'

Run as a program only. The package knows nothing of this: `Journal.commit` is wrapped here, in this process.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import convert

from durable_bus.errors import JournalError
from durable_bus.journal.journal import Journal
from durable_bus.payloads.settings import AppSpec
from durable_bus.supervisor.process import DaemonConfig, supervise

STATES = """
SELECT 'buffer', buffer_id, state FROM buffers
UNION ALL SELECT 'item', buffer_id || '/' || item_index, state FROM items
UNION ALL SELECT 'message', message_id, state FROM messages
"""
ABSENT = "-"


class Watch:
    """Counts the commits that wrote something."""

    def __init__(self, die_at: int, when: str, states: str) -> None:
        self.die_at = die_at
        self.when = when
        self.made = 0
        self.path = states
        self.before: dict[tuple[str, str], str] | None = None

    def begin(self, journal: Journal) -> None:
        if self.path and self.before is None:
            self.before = self.look(journal)

    def written(self) -> None:
        """All of it is written, COMMIT comes next: when we die here nothing of it has happened."""
        self.made += 1
        if self.when == "before":
            self.perhaps_die()

    def committed(self, journal: Journal) -> None:
        """It has happened, and nobody has been told."""
        if self.path:
            self.note(journal)
        if self.when == "after":
            self.perhaps_die()

    def perhaps_die(self) -> None:
        if self.made == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def look(journal: Journal) -> dict[tuple[str, str], str]:
        return {(kind, name): state for kind, name, state in journal.connection.execute(STATES).fetchall()}

    def note(self, journal: Journal) -> None:
        """A line for each change of state, `kind old new name`."""
        before, now = self.before or {}, self.look(journal)
        self.before = now
        with open(self.path, "a") as file:
            for key in sorted(before.keys() | now.keys()):
                old, new = before.get(key, ABSENT), now.get(key, ABSENT)
                if old != new:
                    file.write(f"{key[0]} {old} {new} {key[1]}\n")


def watch_commits(watch: Watch) -> None:
    original = Journal.commit

    @contextmanager
    def commit(journal: Journal, now_ms: int) -> Iterator[None]:
        watch.begin(journal)
        wrote = False
        with original(journal, now_ms):
            changes = journal.connection.total_changes
            yield
            wrote = journal.connection.total_changes != changes
            if wrote:
                watch.written()
        if wrote:
            watch.committed(journal)

    Journal.commit = commit  # type: ignore[method-assign]


def main(options: dict[str, Any]) -> int:
    watch_commits(Watch(options.pop("die_at"), options.pop("when"), options.pop("states")))
    config = DaemonConfig(
        **{**options, "journal": Path(options["journal"]), "app": convert(options["app"], AppSpec)}
    )
    try:
        return supervise(config, None)
    except JournalError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
