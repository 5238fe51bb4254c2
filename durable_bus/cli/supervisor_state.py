"""Whether a journal's supervisor lives, and whether it answers: by its lock, by /proc, and by asking it; and
what its workers do.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durable_bus.wire.protocol import Status

__all__ = ["DISK_IS_FULL", "ask_supervisor", "running_text"]

DISK_IS_FULL = "full: starts are refused, results wait in the workers until there is room"
"""What `storage_full` means."""

ANSWER_WITHIN_S = 2.0


def ask_supervisor(journal: Path, pid: int | None) -> dict[str, Any]:
    """`state` (alive, hung, dead), `pid`, `reason` why it counts as hung; when a daemon tells, also `workers`
    and `storage_full`.

    `pid` holds the journal's lock, None: nobody does. A supervisor that belongs to one command (`run`) has no
    socket, so only the kernel can say how it is.
    """
    if pid is None:
        return {"state": "dead", "pid": None, "reason": None}
    letter = _process_state(pid)
    if letter in ("T", "t"):
        return {"state": "hung", "pid": pid, "reason": "the process is stopped (SIGSTOP or Ctrl-Z)"}
    try:
        answer = _ask(journal)
    except TimeoutError:
        reason = f"no answer within {ANSWER_WITHIN_S:g} s"
        return {"state": "hung", "pid": pid, "reason": reason}
    except (OSError, ValueError):
        return {"state": "alive", "pid": pid, "reason": None}  # it listens to nobody, or has not begun to
    from msgspec import to_builtins

    told = {"workers": to_builtins(answer.workers), "storage_full": answer.storage_full}
    return {"state": "alive", "pid": pid, "reason": None, **told}


def running_text(worker: dict[str, Any], shortened: Callable[[str], str] = str) -> str:
    """What a worker runs: the listener, and of which item or message. `shortened` is applied to the id."""
    if worker.get("message_id"):
        return f"{worker['listener']} message {shortened(worker['message_id'])}"
    if not worker["buffer_id"]:
        return str(worker["listener"])  # a supervisor of an older version says no more
    return f"{worker['listener']} {shortened(worker['buffer_id'])}[{worker['item_index']}]"


def _process_state(pid: int) -> str:
    """The letter of proc(5): R, S, D, T, ...; empty when there is no such process to be seen."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _ask(journal: Path) -> Status:
    """The daemon's answer to `status`. Raises TimeoutError when none comes, OSError when nobody listens, and
    ValueError when it says what this version does not understand.
    """
    from durable_bus.wire.decoding import decode_answer
    from durable_bus.wire.framing import FrameReader, encode
    from durable_bus.wire.protocol import AskStatus, Status
    from durable_bus.wire.socket_file import connect_daemon, journal_file

    with contextlib.closing(connect_daemon(journal, ANSWER_WITHIN_S)) as connection:
        connection.settimeout(ANSWER_WITHIN_S)
        connection.sendall(encode(AskStatus(os.urandom(16).hex(), journal_file(journal))))
        reader = FrameReader(decode_answer)
        while data := connection.recv(64 * 1024):
            for frame in reader.feed(data):
                if not isinstance(frame.header, Status):
                    raise OSError("it refuses to answer: it serves another journal")
                return frame.header
    raise OSError("it has closed the connection")
