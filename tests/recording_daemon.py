"""A daemon that writes down, after each of its commits, how every buffer then stood, and what was in flight.

    python recording_daemon.py '{"journal": …, "app": …, "record": PATH, …}'

Run as a program only. A line is JSON: the commit, and rows of the view `buffers`, with what is in flight.
"""

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import convert

from durable_bus.journal.journal import Journal
from durable_bus.payloads.settings import AppSpec
from durable_bus.supervisor.process import DaemonConfig, supervise

BUFFERS = """
SELECT
    buffer_id, state, paused, target, total, completed, successful, failed, pending,
    ended_how, paused_why,
    (SELECT coalesce(sum(item_count), 0) FROM in_flight f WHERE f.buffer_id = b.buffer_id) AS in_flight
FROM buffers b
"""
LIMITS = "SELECT name, rate, running, by_hand FROM limits ORDER BY name"
SPENDING = """
SELECT buffer_id, unit, sum(amount) AS amount, count(*) AS times FROM spending GROUP BY 1, 2 ORDER BY 1, 2
"""


def record_commits(path: str) -> None:
    original = Journal.commit

    @contextmanager
    def commit(journal: Journal, now_ms: int) -> Iterator[None]:
        with original(journal, now_ms):
            yield
        if journal.committed:
            cursor = journal.connection.cursor()
            cursor.row_factory = sqlite3.Row
            asked = {"buffers": BUFFERS, "limits": LIMITS, "spending": SPENDING}
            rows = {name: [dict(row) for row in cursor.execute(sql)] for name, sql in asked.items()}
            with open(path, "a") as file:
                file.write(json.dumps({"commit": journal.ids.commit, **rows}) + "\n")

    Journal.commit = commit  # type: ignore[method-assign]


def main(options: dict[str, Any]) -> int:
    record_commits(options.pop("record"))
    return supervise(
        DaemonConfig(
            **{**options, "journal": Path(options["journal"]), "app": convert(options["app"], AppSpec)}
        ),
        None,
    )


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
