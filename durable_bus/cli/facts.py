"""What there is to say of a journal, its supervisor and its buffers, as `status` and `top` show it.

A supervisor is known by its lock, by /proc, and by asking it. All else is in the journal, and costs the same
however much that holds.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from durable_bus.cli.limits import limit_facts, wait_for_limits
from durable_bus.cli.printing import amount, buffer_row, duration
from durable_bus.journal.admin.wal_readers import wal_readers
from durable_bus.journal.lock import holder_pid
from durable_bus.journal.reader import JournalReader
from durable_bus.wire.engine_errors import is_of_engine
from durable_bus.wire.process_end import process_state

DISK_IS_FULL = "full: starts are refused, results wait in the workers until there is room"
"""What `storage_full` means."""

RATE_OVER_S = 10
"""Over how many seconds `results_per_second` is taken."""

_ANSWER_WITHIN_S = 2.0
_OPEN_MAX = 100
_ABSENT_MAX = 20
_ENDED_MAX = 5
_FAILURES_MAX = 5


def journal_facts(reader: JournalReader) -> dict[str, Any]:
    """Everything at a glance."""
    waiting = _waiting(reader)
    now_ms = time.time_ns() // 1_000_000
    recent = reader.row("recent_results", since_ms=now_ms - 1000 * RATE_OVER_S) or {}
    ended = reader.rows("last_ended_buffers", limit=_ENDED_MAX)
    return {
        "journal": str(reader.path),
        "journal_bytes": _size_bytes(reader.path),
        "wal_bytes": _size_bytes(Path(f"{reader.path}-wal")),
        "wal_held_back_by": [str(holder) for holder in wal_readers(reader.path)],
        **waiting.serving,
        "open_count": (reader.row("open_buffers_count") or {}).get("buffers", 0),
        "open": [_buffer(row, waiting) for row in reader.open_buffers(limit=_OPEN_MAX)],
        "ended": [_buffer(row, waiting) for row in ended],
        "in_flight": reader.row("in_flight_count"),
        "results_per_second": recent.get("results", 0) / RATE_OVER_S,
        "limits": waiting.limits,
        "last_failures": reader.rows("last_failures", limit=_FAILURES_MAX),
    }


def buffer_facts(reader: JournalReader, buffer_id: str) -> dict[str, Any]:
    """One buffer, what failed its items, what they have spent, and of its budget. Raises NotFound."""
    row = reader.buffer(buffer_id)
    return {
        **_buffer(row, _waiting(reader)),
        "spent": reader.spending(buffer_id),
        "budget": reader.budget(buffer_id),
        "failed_because": reader.failed_because(reader.buffer_seq(buffer_id)),
    }


def waits_for(reader: JournalReader, buffer_id: str) -> str | None:
    """Why nothing is done about a buffer; None: something is, or nobody knows. Raises NotFound."""
    found: str | None = _buffer(reader.buffer(buffer_id), _waiting(reader))["waits_for"]
    return found


def why_nothing_runs(
    reader: JournalReader, rows: list[dict[str, Any]], supervisor: dict[str, Any]
) -> dict[str, str]:
    """The same of several buffers, by their ids, where there is something to say. `rows` need `buffer_id`,
    `state`; `supervisor`: what `supervisor_facts` has said.
    """
    found: dict[str, str] = {}
    open_ones = [row["buffer_id"] for row in rows if row["state"] == "open"]
    if not open_ones:
        return found
    waiting = _waiting(reader, supervisor)
    for buffer_id in open_ones:
        why = _buffer(reader.buffer(buffer_id), waiting)["waits_for"]
        if why:
            found[buffer_id] = why
    return found


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


# Words that `status` and `top` share


def supervisor_text(supervisor: dict[str, Any], run: dict[str, Any]) -> str:
    """`alive` or `hung`. Of one that is gone how it went, by its run: `ended`, or `crashed` where it has not
    said that it ends; `not running` where nobody ever served the journal.
    """
    if supervisor["state"] != "dead":
        return str(supervisor["state"])
    if not run.get("run_id"):
        return "not running"
    return "ended" if run["ended"] == "clean" else "crashed"


def state_text(row: dict[str, Any]) -> str:
    """The state of a buffer; one that is paused, or not sealed, is open as far as the view `buffers` goes."""
    if row["state"] != "open":
        return str(row["state"])
    state = "paused" if row["paused"] else "open"
    return state if is_sealed(row) else f"{state}, not sealed"


def early_end_text(row: dict[str, Any]) -> str:
    """Behind the state `complete`, of a buffer that has ended by its terms before all its items had."""
    how = row.get("ended_how")
    return "" if how in (None, "all", "cancelled") else f" ({how})"


def is_sealed(row: dict[str, Any]) -> bool:
    """Whether no more items come. A journal of an older version knows no streams."""
    return row.get("sealed_at", "") is not None


def why_text(row: dict[str, Any]) -> str:
    """Of `waits_for`, behind other facts: `, waits: it is paused`, or `, waits for limit openai, 12 s`."""
    why = row["waits_for"]
    if not why:
        return ""
    return f", {why}" if why.startswith("waits for ") else f", waits: {why}"


def item_text(failure: dict[str, Any], shortened: Callable[[str], str] = str) -> str:
    """Which item failed. `shortened` is applied to the id."""
    buffer_id = failure["buffer_id"]
    return f"{shortened(buffer_id)}[{failure['item_index']}]" if buffer_id else "a message"


def running_text(worker: dict[str, Any], shortened: Callable[[str], str] = str) -> str:
    """What a worker runs: the listener, and of which item or message. `shortened` is applied to the id."""
    if worker.get("message_id"):
        return f"{worker['listener']} message {shortened(worker['message_id'])}"
    return f"{worker['listener']} {item_text(worker, shortened)}"


# Why nothing is done about a buffer


class _Waiting(NamedTuple):
    """What says why: the journal, who serves it, the settings of its listeners, and the limits."""

    reader: JournalReader
    serving: dict[str, Any]
    listeners: dict[str, dict[str, Any]]
    limits: list[dict[str, Any]]


def _waiting(reader: JournalReader, supervisor: dict[str, Any] | None = None) -> _Waiting:
    return _Waiting(reader, *_serving(reader, supervisor), limit_facts(reader))


def _serving(
    reader: JournalReader, supervisor: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Who serves the journal, and whom messages and items can go to; and the settings of the listeners.

    - `supervisor`: see `supervisor_facts`
    - `run`: the newest, as in `runs`, with `worker_error`
    - `can_work`: a worker has imported the app, in whatever version; where none is told of, one had once
    - `listeners`: of that run; None before a worker has reported them
    - `absent_listeners`: names that have messages waiting, and are neither listeners nor mailboxes
    """
    supervisor = supervisor_facts(reader.path) if supervisor is None else supervisor
    told = reader.row("newest_run_facts") or {}
    settings = json.loads(told["listeners"]) if told.get("listeners") else None
    listeners = None if settings is None else sorted(settings)
    absent = [] if listeners is None else reader.absent_listeners(listeners, limit=_ABSENT_MAX)
    can_work = listeners is not None and supervisor["state"] != "dead"
    if supervisor.get("workers") is not None:
        runs = [worker for worker in supervisor["workers"] if worker.get("engine")] or supervisor["workers"]
        can_work = any(worker["state"] == "ready" for worker in runs)
    serving = {
        "supervisor": supervisor,
        "run": {**(reader.row("newest_run") or {}), "worker_error": told.get("worker_error")},
        "can_work": can_work,
        "listeners": listeners,
        "absent_listeners": absent,
    }
    return serving, settings or {}


def _buffer(row: dict[str, Any], waiting: _Waiting) -> dict[str, Any]:
    """A row of `buffers`, and in `waits_for` why nothing is done about an open one; None: something is."""
    waits_for = _waits_for(row, waiting) if row["state"] == "open" else None
    return {**buffer_row(row), "waits_for": waits_for}


def _waits_for(row: dict[str, Any], waiting: _Waiting) -> str | None:
    reader, serving = waiting.reader, waiting.serving
    if row["paused"]:
        return budget_spent(reader, row["buffer_id"]) if row.get("paused_why") == "budget" else "it is paused"
    if serving["supervisor"]["state"] == "dead":
        return "nobody serves the journal"
    if serving["supervisor"]["state"] == "hung":
        return "the supervisor does not answer"
    if serving["run"]["worker_error"] and not serving["can_work"]:
        return cannot_work(serving["run"]["worker_error"], "workers cannot import the app")
    if serving["listeners"] is not None and row["target"] not in serving["listeners"]:
        return f"no listener of the app is called {row['target']}"
    if serving["absent_listeners"]:
        names = [absent["name"] for absent in serving["absent_listeners"]]
        name = reader.waited_for_by_items_of(row["thread_id"], names)
        if name is not None:
            what = "for which a message on the thread of its items waits"
            return f"no listener of the app is called {name}, {what}"
    if not is_sealed(row) and not row["pending"]:
        return "no more of its items have come, and it is not sealed"
    return _not_before(row) or _limited(row, waiting)


def cannot_work(error: str, what: str) -> str:
    """Why nothing can run: `what`, by this error of a worker; an engine's says itself what it is about."""
    return error if is_of_engine(error) else f"{what}: {error}"


def budget_spent(reader: JournalReader, buffer_id: str) -> str:
    """Such as `its budget is spent: 5.02 of 5 usd`."""
    rows = reader.budget(buffer_id)
    spent = [budget_text(row) for row in rows if row["spent"] >= row["amount"]]
    return f"its budget is spent: {', '.join(spent)}" if spent else "its budget is spent"


def budget_text(row: dict[str, Any]) -> str:
    return f"{amount(row['spent'])} of {amount(row['amount'])} {row['unit']}"


def _not_before(row: dict[str, Any]) -> str | None:
    """In local time, with its date where that is not today's."""
    if not row.get("not_before"):
        return None
    at, now = datetime.fromisoformat(row["not_before"]).astimezone(), datetime.now().astimezone()
    if at <= now:
        return None
    text = f"{at:%H:%M:%S}" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M:%S}"
    return f"not before {text} (in {duration((at - now).total_seconds())})"


def _limited(row: dict[str, Any], waiting: _Waiting) -> str | None:
    """By a limit of its listener, while there are items of it that were not handed out."""
    names = waiting.listeners.get(row["target"], {}).get("limits", [])
    why = wait_for_limits(waiting.limits, names)
    if why is None:
        return None
    in_hand = (waiting.reader.row("in_hand_of_buffer", buffer_id=row["buffer_id"]) or {}).get("items", 0)
    return why if row["pending"] > in_hand else None


def supervisor_facts(journal: Path) -> dict[str, Any]:
    """`state` (alive, hung, dead), `pid`, `reason` why it counts as hung; when a daemon tells, also
    `workers`, `storage_full`, and `figures` (None: an older daemon has none).

    A supervisor that belongs to one command (`run`) has no socket, so only the kernel can say how it is.
    """
    pid = holder_pid(journal)
    if pid is None:
        return {"state": "dead", "pid": None, "reason": None}
    if process_state(pid) in ("T", "t"):
        return {"state": "hung", "pid": pid, "reason": "the process is stopped (SIGSTOP or Ctrl-Z)"}
    try:
        told = _ask(journal)
    except TimeoutError:
        return {"state": "hung", "pid": pid, "reason": f"no answer within {_ANSWER_WITHIN_S:g} s"}
    except (OSError, ValueError):
        told = {}  # it listens to nobody, or has not begun to
    return {"state": "alive", "pid": pid, "reason": None, **told}


def _ask(journal: Path) -> dict[str, Any]:
    """What a daemon answers to `status`. Raises TimeoutError when nothing comes, OSError when nobody listens,
    ValueError for what this version does not understand.
    """
    from msgspec import to_builtins

    from durable_bus.wire.decoding import decode_answer
    from durable_bus.wire.framing import FrameReader, encode
    from durable_bus.wire.protocol import AskStatus, Status
    from durable_bus.wire.socket_file import connect_daemon, journal_file

    with contextlib.closing(connect_daemon(journal, _ANSWER_WITHIN_S)) as connection:
        connection.settimeout(_ANSWER_WITHIN_S)
        connection.sendall(encode(AskStatus(os.urandom(16).hex(), journal_file(journal))))
        reader = FrameReader(decode_answer)
        while data := connection.recv(64 * 1024):
            for frame in reader.feed(data):
                if not isinstance(frame.header, Status):
                    raise OSError("it refuses to answer: it serves another journal")
                workers = to_builtins(frame.header.workers)
                figures = to_builtins(frame.header.figures)
                return {"workers": workers, "storage_full": frame.header.storage_full, "figures": figures}
    raise OSError("it has closed the connection")
