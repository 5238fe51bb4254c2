"""Why no daemon answers, as far as who asks can know it."""

from pathlib import Path

from durable_bus.journal.lock import holder_pid
from durable_bus.wire.socket_file import served_socket_path

__all__ = ["nobody_serves", "process_of", "why_unreachable"]


def process_of(journal: Path) -> str:
    """Who holds the journal, in words."""
    pid = holder_pid(journal)
    return "its process is not known" if pid is None else f"process {pid}"


def why_unreachable(journal: Path, error: OSError) -> str:
    """Of a socket that could not be connected to."""
    pid = holder_pid(journal)
    if isinstance(error, BlockingIOError):
        return f"the daemon of {journal} ({process_of(journal)}) accepts nobody: it is stopped, or very busy"
    if pid is not None:
        return f"process {pid} holds {journal} and {_not_listening(served_socket_path(journal), error)}"
    return nobody_serves(journal, str(error.strerror))


def _not_listening(path: Path, error: OSError) -> str:
    """What can be known of who holds a journal and cannot be reached. A daemon that has lost its socket file
    looks like a supervisor that never had one, and goes on with its work.
    """
    if not isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return f"cannot be reached at {path}: {error.strerror}"
    return (
        f"does not listen at {path}: it serves for itself alone, as `durable-bus run` does, has only just "
        "started, or its socket file was removed; wait for its end, or start it again"
    )


def nobody_serves(journal: Path, why: str) -> str:
    return f"no daemon serves {journal} ({why}); start one with: durable-bus serve APP --journal {journal}"
