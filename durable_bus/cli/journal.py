"""Commands about the journal itself: query, check, migrate, backup, vacuum."""

import shutil
import signal
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from durable_bus.cli import options
from durable_bus.cli.interrupts import interrupts_noted
from durable_bus.cli.printing import duration, escaped, note, print_json, printable, size
from durable_bus.cli.progress import LINE_EVERY_S
from durable_bus.cli.rows import write_rows
from durable_bus.errors import StorageFull, UsageError
from durable_bus.journal.admin.backup import back_up, copy_seconds
from durable_bus.journal.admin.check import UNREADABLE, Finding, Report, check
from durable_bus.journal.admin.query import ask, column_names, question, questions
from durable_bus.journal.lock import JournalLock, holder_pid, noted_commit

if TYPE_CHECKING:
    from sqlite3 import Connection

EXIT_WRONG = 5
_IN_MEMORY_BYTES_MAX = 32 * 1024 * 1024
_PIECE_CHARS = 64 * 1024
_VALUE_CHARS_MAX = 500


@click.command("query")
@click.argument("sql", required=False)
@options.journal_option()
@click.option("--named", metavar="NAME", help="One of the questions that --list shows.")
@click.option("--list", "list_questions", is_flag=True, help="Show the named questions.")
@click.option(
    "-p",
    "--param",
    "parameters",
    type=(str, str),
    multiple=True,
    metavar="NAME VALUE",
    help="Of the SQL. There, a whole number is a number, all else is text; CAST makes it what it should be.",
)
@options.written_as("rows", "table", "json", "csv", "tsv")
@click.option(
    "--timeout",
    type=options.SECONDS,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Interrupt the query after so long; 0: never.",
)
def query_command(
    sql: str | None,
    journal: Path,
    named: str | None,
    list_questions: bool,
    parameters: tuple[tuple[str, str], ...],
    format_name: str,
    timeout: float,
) -> int:
    """Ask the journal in SQL, read-only, while a daemon runs or after. The views are in migrations/README.md.

    Rows are written when all are there: a pager that is left open does not keep the write-ahead log from
    shrinking, and nor does a query that never ends. A blob is written in hexadecimal digits, an infinite
    number in JSON as null. On a terminal control characters show as escapes, such as \\u001b, and in a table
    everywhere.

    The column `json` of items, results and messages is the payload where that is JSON, else NULL: ask it with
    SQLite's ->>.

    \b
    durable-bus query "SELECT buffer_id, state, failed FROM buffers"
    durable-bus query -p b BUFFER --format csv \\
        "SELECT * FROM items WHERE buffer_id = :b AND state = 'failed'"
    durable-bus query "SELECT item_index, json ->> '$.score' FROM results"
    durable-bus query --named slowest-items -p buffer BUFFER
    """
    if list_questions:
        for name, means in questions().items():
            print(f"{name:<22}{means}")
        return 0
    if (sql is None) == (named is None):
        raise UsageError("give either SQL or --named NAME (--list shows the names)")
    if sql is not None and sql in questions():
        raise UsageError(f"{sql} is no SQL, but a question's name: durable-bus query --named {sql}")
    if named is not None:
        sql, given = question(named, dict(parameters))
    else:
        given = {name: _value(text) for name, text in parameters}
    assert sql is not None
    limit_s = timeout or None
    with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES_MAX, "w+", encoding="utf-8", newline="") as spool:
        rows = ask(journal, sql, given, time_limit_s=limit_s)
        write_rows(rows, format_name, spool, lambda: column_names(journal, sql, given, time_limit_s=limit_s))
        spool.seek(0)
        for piece in iter(lambda: spool.read(_PIECE_CHARS), ""):
            sys.stdout.write(escaped(piece) if sys.stdout.isatty() else piece)
    return 0


def _value(text: str) -> str | int:
    """A whole number is one, because an index compared with a text would never be equal. A column that is a
    text is compared with its digits; so it is no number unless its digits are the text, and SQLite has it.
    """
    try:
        number = int(text)
    except ValueError:
        return text
    return number if str(number) == text and -(2**63) <= number < 2**63 else text


@click.command("check")
@options.journal_option()
@options.json_option
def check_command(journal: Path, as_json: bool) -> int:
    """Look for anything wrong: SQLite's own checks, then every invariant of the journal. Reads only.

    Exit code 5 when something is wrong. Safe while a daemon runs; 1,000,000 results take 2 to 10 seconds.

    \b
    durable-bus check && echo all is well
    """
    report = check(journal, served=holder_pid(journal) is not None, noted=noted_commit(journal))
    if as_json:
        print_json(report.to_json())
    else:
        _print_report(report)
    return 0 if report.ok else EXIT_WRONG


def _print_report(report: Report) -> None:
    wrong = [finding for finding in report.checks if not finding.ok]
    unreadable = [finding for finding in wrong if UNREADABLE in finding.rows[0]]
    for finding in wrong:
        if finding not in unreadable:
            _print_finding(finding)
    if unreadable:
        why = unreadable[0].rows[0][UNREADABLE]
        names = ", ".join(finding.name.replace("_", " ") for finding in unreadable)
        print(f"WRONG {len(unreadable)} checks could not be made ({why}): {names}")
    for warning in report.warnings:
        print(f"note: {warning.message}")
    if wrong:
        print(f"{report.journal}: {len(wrong)} of {len(report.checks)} checks found something wrong")
        print("what can be read is saved by: durable-bus export BUFFER --output FILE", file=sys.stderr)
    else:
        print(f"{report.journal}: all {len(report.checks)} checks passed")


def _print_finding(finding: Finding) -> None:
    print(f"WRONG {finding.name.replace('_', ' ')}. It should be so: {finding.means}")
    for row in finding.rows:
        facts = (f"{name} {' '.join(str(value).split())[:_VALUE_CHARS_MAX]}" for name, value in row.items())
        print("    " + printable(", ".join(facts)))
    if finding.more:
        print("    and more")


@click.command("migrate")
@options.journal_option()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def migrate_command(journal: Path, dry_run: bool) -> int:
    """Bring the journal's schema up to this version; nobody may be serving it.

    A backup is made beside it first: how much room that takes, and about how long, is said before. All is
    done or nothing, also when it is killed. A daemon takes small steps of a journal up to 1 GiB by itself.

    \b
    durable-bus migrate --dry-run
    """
    from durable_bus.journal.connection import open_reader
    from durable_bus.journal.schema import pending_steps, size_of

    with closing(open_reader(journal)) as reader:
        steps = pending_steps(reader)
        version = reader.execute("PRAGMA user_version").fetchone()[0]
        size_bytes = size_of(reader)
    for step in steps:
        print(f"{step.name}: {step.does}" + (f" (a big step: {step.big})" if step.big else ""), flush=True)
    if not steps:
        print(f"{journal} has schema version {version}: there is nothing to do")
        return 0
    if dry_run:
        steps_to_go = f"{len(steps)} steps" if len(steps) > 1 else "1 step"
        print(
            f"{journal} has schema version {version}: {steps_to_go} to go, after {_cost(journal, size_bytes)}"
        )
    else:
        _upgrade(journal, size_bytes)
    return 0


def _cost(journal: Path, size_bytes: int) -> str:
    """What the backup takes. Raises StorageFull when there is no room for it."""
    from durable_bus.journal.access import real_path

    real = real_path(journal)
    free_bytes = shutil.disk_usage(real.parent).free
    if size_bytes > free_bytes:
        raise StorageFull(
            f"a backup of {journal} takes {size(size_bytes)} beside it, and {size(free_bytes)} are free"
        )
    about = duration(copy_seconds(real, size_bytes))
    return f"a backup: {size(size_bytes)} of the {size(free_bytes)} that are free, about {about}"


class _BackupShown:
    """Says how far the backup is, every few seconds."""

    def __init__(self) -> None:
        self._begun = self._told = time.monotonic()

    def __call__(self, done_bytes: int, all_bytes: int) -> None:
        now = time.monotonic()
        if now - self._told >= LINE_EVERY_S:
            self._told = now
            to_go = (now - self._begun) * (all_bytes - done_bytes) / done_bytes
            note(f"backup: {size(done_bytes)} of {size(all_bytes)}, {duration(to_go)} to go")


def _upgrade(journal: Path, size_bytes: int) -> None:
    from durable_bus.journal.completeness import refuse_incomplete
    from durable_bus.journal.connection import open_writer, translated
    from durable_bus.journal.schema import upgrade

    lock = JournalLock(journal)
    try:
        real = lock.journal
        newest_commit = refuse_incomplete(real, noted_commit(real))
        # On stderr: it says another number each time. Before there is a connection: see `copy_seconds`.
        note(f"first comes {_cost(real, size_bytes)}")
        begun = time.monotonic()
        with translated(real), closing(open_writer(real)) as connection:
            lock.begin_to_note(newest_commit)
            backup = upgrade(connection, real, big_ones=True, watch=_BackupShown())
            version = connection.execute("PRAGMA user_version").fetchone()[0]
    finally:
        lock.release()
    note(f"done in {duration(time.monotonic() - begun)}")
    print(f"{journal} has schema version {version} now; how it was before is in {backup}")


@click.command("backup")
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@options.journal_option()
def backup_command(destination: Path, journal: Path) -> int:
    """Copy the journal to DEST, consistently, also while a daemon writes it.

    The copy is one file, complete in itself. An earlier backup at DEST is replaced when the new one is whole
    and on disk; killed at any moment, the old one is left as it was. A journal that a supervisor has served
    is never replaced.

    \b
    durable-bus backup /var/backups/journal.db
    """
    size_bytes = back_up(journal, destination, served_by=holder_pid(destination))
    note(f"{size_bytes:,} bytes in {destination}")
    return 0


@click.command("vacuum")
@options.journal_option()
def vacuum_command(journal: Path) -> int:
    """Give the room that pruned rows have left in the journal back to the file system.

    Nobody may be serving it. What is left is written twice, into a temporary file beside the journal and into
    its log: how much room that takes is said before, and it is refused where there is less. All is done or
    nothing, whatever it is killed by; Ctrl-C leaves the journal as it was. Without this, the daemon uses that
    room for what comes next.

    \b
    durable-bus prune --older-than 30d
    durable-bus vacuum
    """
    from durable_bus.journal.completeness import refuse_incomplete
    from durable_bus.journal.connection import open_writer
    from durable_bus.journal.reader import JournalReader

    with JournalReader(journal) as reader:  # says that there is none, before anything is made
        row = reader.row("buffers_to_clear")
    if row and row["buffers"]:
        note(f"the rows of {row['buffers']:,} pruned buffers are not deleted yet: a daemon does that")
    lock = JournalLock(journal)
    try:
        real = lock.journal
        refuse_incomplete(real, noted_commit(real))
        with closing(open_writer(real)) as connection:
            _vacuum(connection, journal, real)
    finally:
        lock.release()  # with all that the last supervisor has noted in it: no commit was added
    return 0


def _vacuum(connection: "Connection", journal: Path, real: Path) -> None:
    from durable_bus.journal.admin.vacuum import pages_of, refuse_no_room, vacuum

    free_bytes = pages_of(connection).free_bytes
    if not free_bytes:
        print(f"{journal}: no room to give back, all of its pages are used")
        return
    for folder, (needed_bytes, there_bytes) in refuse_no_room(connection, real).items():
        note(f"it takes {size(needed_bytes)} of the {size(there_bytes)} that are free in {folder}")
    begun = time.monotonic()
    with interrupts_noted(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as is_stopped:
        done = vacuum(connection, real, is_stopped)
    note(f"done in {duration(time.monotonic() - begun)}")
    if done.is_cut:
        given_bytes = done.before_bytes - done.after_bytes
        print(f"{journal}: {given_bytes:,} bytes given back, {done.after_bytes:,} are left")
    else:  # the log has what is left
        who = ", ".join(map(str, done.held_by)) or "somebody"
        note(f"{who} still reads the journal as it was")
        print(f"{journal}: no bytes given back yet, the next start of a daemon cuts the file")
