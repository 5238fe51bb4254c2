"""Why no daemon answers, as far as who asks can know it."""

from pathlib import Path

from durable_bus.journal.lock import holder_pid
from durable_bus.wire.socket_file import served_socket_path

__all__ = ["is_silent", "nobody_serves", "why_unreachable"]


def is_silent(journal: Path, what: str) -> str:
    """Of a daemon that is there: `what` it does not do."""
    pid = holder_pid(journal)
    holder = "its process is not known" if pid is None else f"process {pid}"
    return f"the daemon of {journal} ({holder}) {what}: it is stopped, or very busy"


def why_unreachable(journal: Path, error: OSError) -> str:
    """Of a socket that could not be connected to."""
    if isinstance(error, BlockingIOError):
        return is_silent(journal, "accepts nobody")
    pid = holder_pid(journal)
    if pid is None:
        return nobody_serves(journal, str(error.strerror))
    path = served_socket_path(journal)
    if not isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return f"process {pid} holds {journal} and cannot be reached at {path}: {error.strerror}"
    # A daemon that has lost its socket file looks like a supervisor that never had one, and goes on.
    return (
        f"process {pid} holds {journal} and does not listen at {path}: it serves for itself alone, as "
        "`durable-bus run` does, has only just started, or its socket file was removed; wait for its end, or "
        "start it again"
    )


def nobody_serves(journal: Path, why: str) -> str:
    return f"no daemon serves {journal} ({why}); start one with: durable-bus serve APP --journal {journal}"
