"""Journals of any size without running anything: rows as a supervisor would have written them.

    python tests/synthetic.py JOURNAL [RESULTS] [BATCH]

One run, one buffer that is complete, every BATCH items a dispatch, an answer and a commit; each tenth item
fails, with its row in `failure`. 1,000,000 results at batch 1 are 2 million commits and take half a minute.
"""

import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from durable_bus.journal.connection import SCHEMA_VERSION, open_writer
from durable_bus.journal.schema import migrate, migrations_folder

FAILS_EVERY = 10
BUFFER_SEQ = 1
_BASE = BUFFER_SEQ << 32
_STARTED_MS = 1_800_000_000_000

_SQL = """
INSERT INTO run (run_id, pid, app, version, started_at, stopped_at{first})
VALUES (1, 4242, 'synthetic:bus', '0.1.0', {started}, {started} + 3600000{first_value});
INSERT INTO thread VALUES ('t', '[]', 1, 1), ('t/big', '[]', 1, 1);
INSERT INTO buffer (
    buffer_seq, buffer_id, target, return_to, from_id, thread_id, starter_thread_id, collect,
    request_id, digest, next_chunk, received, total, succeeded, failed, low_water, touched_at,
    created_commit, opened_commit, ended_commit{sealed}
) VALUES (
    {seq}, 'big', 'work', '', '', 't/big', 't', 1,
    'r', 'd', 1, {total}, {total}, {total} - {failed}, {failed}, {total},
    {started}, 1, 1, {last}{sealed_value}
);
INSERT INTO journal_commit (commit_id, run_id, committed_at, results, failures)
WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {last})
SELECT i, 1, {started} + i, 0, 0 FROM n;
INSERT INTO item (item_key, payload, {form})
WITH RECURSIVE n (i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i < {total} - 1)
SELECT {base} + i, '<source><path>/usr/lib/python3/module_' || i || '.py</path></source>', 1 FROM n;
INSERT INTO dispatch (
    dispatch_id, commit_id, buffer_seq, first_index, item_count, attempt, alone, worker_pid,
    ended_commit, ended_how
)
WITH RECURSIVE n (i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE (i + 1) * {batch} < {total})
SELECT i + 1, 2 * i + 2, {seq}, i * {batch}, min({batch}, {total} - i * {batch}), 1, 0,
    5000 + i % 2, 2 * i + 3, 'answered'
FROM n;
"""


def make(journal: Path, results: int, batch: int, schema_version: int = SCHEMA_VERSION) -> None:
    """Write it, and close it cleanly. `batch` 1, or a multiple of ten (then each tenth item is an answer of
    its own).
    """
    dispatches = -(-results // batch)
    failed = -(-results // FAILS_EVERY)
    facts = {
        "started": _STARTED_MS,
        "seq": BUFFER_SEQ,
        "total": results,
        "failed": failed,
        "last": 2 * dispatches + 1,
        "base": _BASE,
        "batch": batch,
    }
    with closing(open_writer(journal)) as connection:
        _migrate_to(schema_version, connection)
        form = "form" if schema_version > 1 else "is_xml"
        sealed = (", sealed_commit", ", 1") if schema_version > 2 else ("", "")
        first = (", first_commit", ", 1") if schema_version > 6 else ("", "")
        columns = {"form": form, "sealed": sealed[0], "sealed_value": sealed[1]}
        columns |= {"first": first[0], "first_value": first[1]}
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SQL.format(**columns, **facts).split(";\n"):
            connection.execute(statement)
        _add_results(connection, results, batch, form)
        connection.execute(
            f"INSERT INTO message (message_id, kind, from_id, to_id, thread_id, payload, {form}, buffer_seq,"
            " created_commit, delivered_commit, settled_commit)"
            " VALUES ('big/complete', 'BufferComplete', 'buffer_big', '', 't', ?, 1, ?, ?, ?, ?)",
            (
                f"<BufferComplete><buffer_id>big</buffer_id><total>{results}</total>"
                f"<successful>{results - failed}</successful><results></results></BufferComplete>",
                BUFFER_SEQ,
                *[facts["last"]] * 3,
            ),
        )
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _migrate_to(schema_version: int, connection: sqlite3.Connection) -> None:
    """As a program of that version would."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(migrations_folder(), Path(name) / "migrations"))
        for script in folder.glob("[0-9]*.sql"):
            if int(script.name[:4]) > schema_version:
                script.unlink()
        migrate(connection, folder)


def _add_results(connection: sqlite3.Connection, results: int, batch: int, form: str) -> None:
    """In runs of one success: what an answer holds."""
    answers, rows, failures = [], [], []
    for first in range(0, results, batch):
        commit_id = 2 * (first // batch) + 3
        end = min(first + batch, results)
        start = first
        while start < end:
            success = start % FAILS_EVERY != 0
            stop = min(end, start - start % FAILS_EVERY + FAILS_EVERY) if success else start + 1
            answer_id = len(answers) + 1
            answers.append(
                (
                    answer_id,
                    commit_id,
                    first // batch + 1,
                    BUFFER_SEQ,
                    start,
                    stop - start,
                    stop - start,
                    success,
                    1,
                    5000 + first // batch % 2,
                    "".join(f"{1000 + index % 977:010d}" for index in range(start, stop)),
                )
            )
            for index in range(start, stop):
                payload = (
                    f"<metrics><lines>{index % 5000}</lines><functions>{index % 70}</functions></metrics>"
                )
                if not success:
                    payload = "<SystemError><code>exception</code><message>no</message></SystemError>"
                    failures.append((commit_id, _BASE + index, f"SyntaxError: {index % 7}"))
                rows.append((_BASE + index, payload, success, answer_id))
            start = stop
    connection.executemany(
        "INSERT INTO answer (answer_id, commit_id, dispatch_id, buffer_seq, first_index, item_count,"
        " recorded, success, attempt, worker_pid, durations) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        answers,
    )
    connection.executemany(
        f"INSERT INTO result (item_key, payload, success, {form}, answer_id) VALUES (?, ?, ?, 1, ?)", rows
    )
    connection.executemany(
        "INSERT INTO failure (commit_id, item_key, attempt, kind, message) VALUES (?, ?, 1, 'exception', ?)",
        failures,
    )
    for column, rows_of in (("results", "result r JOIN answer USING (answer_id)"), ("failures", "failure")):
        connection.execute(
            f"UPDATE journal_commit SET {column} = counted.n FROM"
            f" (SELECT commit_id, count(*) AS n FROM {rows_of} GROUP BY commit_id) AS counted"
            " WHERE counted.commit_id = journal_commit.commit_id"
        )


if __name__ == "__main__":
    make(Path(sys.argv[1]), int((sys.argv[2:] or ["1000000"])[0]), int((sys.argv[3:] or ["1"])[0]))
