"""Every way in which a journal is opened for writing."""

from pathlib import Path

from command_line import Command, Ran, durable_bus, write_items
from support import outcome, program, until

from durable_bus.errors import JournalUnreachable
from durable_bus.journal.connection import open_writer
from durable_bus.journal.lock import JournalLock, holder_pid

COMMANDS = ("serve", "run", "running", "finish")
EVERY_WAY = (*COMMANDS, "lock", "writer")
"""The last two are what all others go through, and cost no process."""


RUNNING = """
import sys
from apps import plain
from durable_bus.errors import DurableBusError
try:
    with plain.bus.running(journal=sys.argv[1], workers=1) as client:
        client.start("echo", ["a"]).wait(60)
except DurableBusError as error:
    print(f"durable-bus: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
"""


def enter(way: str, journal: Path, tmp_path: Path) -> Ran:
    """Open a journal for writing, as a user would, or as those do who open it for him."""
    if way in ("lock", "writer"):
        try:
            if way == "lock":
                JournalLock(journal, wait_s=0).release()
            else:
                open_writer(journal).close()
        except JournalUnreachable as error:
            return Ran(error.exit_code, "", f"durable-bus: {error}\n")
        return Ran(0, "", "")
    if way == "running":
        return Ran(*outcome(program(tmp_path / "running.py", RUNNING, str(journal))))
    if way == "serve":
        serving = Command("serve", "apps.plain:bus", "--journal", journal, cwd=tmp_path)
        until(lambda: serving.process.poll() is not None or holder_pid(journal), "it serves, or has ended")
        serving.process.terminate()
        return serving.ended()
    items = write_items(tmp_path, "a", "b")
    command = {
        "run": ("run", "apps.plain:bus", "echo", "--items", items, "--workers", 1),
        "finish": ("replay", "finish", "apps.plain:bus"),
    }[way]
    return durable_bus(*command, "--journal", journal, cwd=tmp_path)
