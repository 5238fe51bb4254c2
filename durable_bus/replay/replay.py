"""Replay: what a start would do now, doing it, and doing recorded work again to compare.

Only `finish` writes to the journal, and does so as everybody does: through a supervisor. `plan` runs the real
supervisor's start and dispatcher on a private copy; `rerun` runs items in a scratch journal.
What happened is read by `journal.history`.
"""

import difflib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from durable_bus import __version__
from durable_bus.app.bus import spec_here
from durable_bus.client.client import Client
from durable_bus.client.embedded import open_client
from durable_bus.errors import BufferError, NotFound, UsageError
from durable_bus.journal.access import path_to_write
from durable_bus.journal.admin.history import History
from durable_bus.journal.admin.scratch import scratch_copy
from durable_bus.journal.completeness import refuse_incomplete
from durable_bus.journal.lock import holder_pid, noted_commit
from durable_bus.journal.reader import BufferContent, JournalReader
from durable_bus.payloads.characters import escape, representable
from durable_bus.payloads.messages import Result
from durable_bus.payloads.results_document import results_document
from durable_bus.payloads.settings import ListenerSettings
from durable_bus.payloads.xml import canonical
from durable_bus.supervisor.context import Context, Ports, SupervisorConfig
from durable_bus.supervisor.io.clock import SystemClock
from durable_bus.supervisor.loop import Supervisor
from durable_bus.supervisor.scheduling import batch_size
from durable_bus.supervisor.scheduling.dispatcher import plan_items
from durable_bus.supervisor.state import ItemLease, Worker
from durable_bus.wire.ids import new_id

__all__ = ["Comparison", "Difference", "Finished", "Plan", "emit", "finish", "plan", "rerun"]

_FAR_FUTURE_MS = 1 << 52
_LOOK_EVERY_S = 0.2
_DIFFERENCE_LINES_MAX = 40
_DIFFERENCE_CHARS_MAX = 200


# plan


@dataclass(frozen=True, slots=True)
class Plan:
    """What a start would hand out now."""

    buffers: list[dict[str, Any]]
    """In their order: `buffer_id`, `outstanding` (how many items), `ranges` ([[first, count], …])."""
    paused: list[str]
    """Open buffers that nothing would be handed out of before a `resume`."""
    messages: dict[str, int]
    """How many messages wait for each name."""


def plan(journal: Path) -> Plan:
    """Ask the real supervisor, on a copy. Retries that are due later are part of it.

    Raises a JournalError.
    """
    with scratch_copy(journal) as copy:
        clock = SystemClock()
        nobody: Any = _Nobody()
        supervisor = Supervisor(
            SupervisorConfig(app_name="plan", pid=os.getpid(), version=__version__, workers=1),
            copy,
            Ports(nobody, nobody, nobody, clock, new_id, _say_nothing),
        )
        supervisor.start()
        with copy.commit(clock.now_ms()):
            _hand_out_everything(supervisor.context)
        found = []
        held = [one for one in supervisor.state.leases.values() if isinstance(one, ItemLease)]
        buffers = supervisor.state.buffers.values()
        for buffer in buffers:
            ranges = _merged([(one.first, one.item_count) for one in held if one.buffer_seq == buffer.seq])
            if ranges:
                outstanding = sum(count for _, count in ranges)
                found.append({"buffer_id": buffer.buffer_id, "outstanding": outstanding, "ranges": ranges})
        paused = [buffer.buffer_id for buffer in buffers if buffer.paused]
        return Plan(found, paused, copy.messages.names_with_waiting())


class _Nobody:
    """Clients, a reactor, and workers that have begun nothing: all that a plan asks of them."""

    started = 0

    def slot(self, worker_id: int) -> "_Nobody":
        return self

    def send(self, worker_id: int, data: bytes) -> None:
        raise AssertionError("a plan sends nothing")


def _say_nothing(*_: object, **__: object) -> None:
    pass


def _hand_out_everything(context: Context) -> None:
    """Give all there is to one worker that knows every listener and always has room."""
    state = context.state
    targets = {buffer.target for buffer in state.buffers.values()}
    for target in targets:
        batch_size.saw(state, target, 1, 1)  # fast, so that batches are as large as they may be
    listeners = {target: ListenerSettings(target, None, 1, 0.0, 1, False, None) for target in targets}
    worker = Worker(worker_id=0, pid=os.getpid(), listeners=listeners)
    next_ordinal = rounds_without = 0
    while rounds_without < 2:
        state.workers[0] = worker._replace(next_ordinal=next_ordinal)
        some = plan_items(context, _FAR_FUTURE_MS)
        rounds_without = 0 if some or state.scan_unfinished else rounds_without + 1
        next_ordinal = state.workers[0].next_ordinal


def _merged(ranges: list[tuple[int, int]]) -> list[list[int]]:
    """Ranges in order, those that touch as one."""
    merged: list[list[int]] = []
    for first, count in sorted(ranges):
        if merged and merged[-1][0] + merged[-1][1] == first:
            merged[-1][1] += count
        else:
            merged.append([first, count])
    return merged


# finish


@dataclass(frozen=True, slots=True)
class Finished:
    """How it ended."""

    buffers: list[dict[str, Any]]
    """Rows of the view `buffers`, those that were open at the beginning."""
    left: list[str]
    """Why anything is still open, a line each."""


def finish(
    journal: Path, app: str, *, workers: int | None = None, tell: Callable[[int, int], None] = _say_nothing
) -> Finished:
    """Complete whatever is open or in flight, with a supervisor of our own, and stop.

    What cannot be completed now (paused, without a listener, waiting for a client's answer) is left, and
    named. `tell` is told from time to time how many buffers are open and how many items are pending. Raises a
    JournalError, also when what was open may be missing.
    """
    spec = spec_here(app)
    path_to_write(journal)  # its supervisor would say the same, but readers leave a -wal and a -shm before
    if holder_pid(journal) is None:
        refuse_incomplete(journal, noted_commit(journal))
    with History(journal) as history:
        before, messages = history.open_work()
        if before or messages:
            with open_client(spec, app, journal, workers) as client:
                _until_nothing_moves(client, history, tell)
                listeners = client.listeners
            work, messages = history.open_work()
            left = [_why_left(buffer, listeners) for buffer in work]
            left += [
                f"{count} messages to {name}, whom the app does not have"
                for name, count in messages.items()
                if name not in listeners
            ]
        else:
            left = []
    with JournalReader(journal) as reader:
        return Finished([reader.buffer(buffer["buffer_id"]) for buffer in before], left)


def _until_nothing_moves(client: Client, history: History, tell: Callable[[int, int], None]) -> None:
    """Wait until nothing is left that this supervisor can bring on."""
    look_at_s = 0.0

    def nothing_moves() -> bool:
        nonlocal look_at_s
        if time.monotonic() < look_at_s:
            return False
        look_at_s = time.monotonic() + _LOOK_EVERY_S
        work, messages = history.open_work()
        tell(len(work), sum(buffer["pending"] for buffer in work))
        return not any(_moves(buffer, client.listeners) for buffer in work) and not any(
            name in client.listeners for name in messages
        )

    client.wait_until(nothing_moves, None, None)


def _moves(buffer: dict[str, Any], listeners: dict[str, Any]) -> bool:
    return not buffer["paused"] and buffer["target"] in listeners and buffer["pending"] > buffer["forwarded"]


def _why_left(buffer: dict[str, Any], listeners: dict[str, Any]) -> str:
    name, pending = buffer["buffer_id"], f"{buffer['pending']:,} items"
    if buffer["paused"]:
        return f"{name}: {pending}, it is paused"
    if buffer["target"] not in listeners:
        return f"{name}: {pending}, the app has no listener {buffer['target']}"
    return f"{name}: {pending}, they wait for an answer from elsewhere"


# emit


class Emission(NamedTuple):
    """A BufferComplete, as it was or will be delivered."""

    message_id: str
    buffer_id: str
    total: int
    successful: int
    pieces: Iterator[str]
    """Of the results document."""

    def xml(self) -> Iterator[str]:
        """The whole message. Its results are text in it, as everywhere."""
        yield (
            f"<BufferComplete><buffer_id>{escape(representable(self.buffer_id))}</buffer_id>"
            f"<total>{self.total}</total><successful>{self.successful}</successful><results>"
        )
        for piece in self.pieces:
            yield escape(piece)
        yield "</results></BufferComplete>\n"


def emit(reader: JournalReader, buffer_id: str) -> Emission:
    """The BufferComplete of an ended buffer again, under the same message id. Nothing is sent or written.

    Raises NotFound when there is no such buffer or its results were pruned, BufferError when it has none.
    """
    content = _content(reader, buffer_id)
    if not content.ended:
        raise BufferError(buffer_id, "it has not ended: it has no BufferComplete yet")
    if not content.collect:
        raise BufferError(buffer_id, "it was started with collect=False: it has no BufferComplete")
    results = reader.results(content.buffer_seq)
    return Emission(
        f"{buffer_id}/complete",
        buffer_id,
        content.total,
        content.succeeded,
        results_document(results, content.total),
    )


def _content(reader: JournalReader, buffer_id: str) -> BufferContent:
    content = reader.content(buffer_id)
    if content is None:
        raise NotFound(f"no buffer {buffer_id!r:.120} in {reader.path}")
    if content.pruned:
        raise NotFound(f"the items and results of {buffer_id} were pruned")
    return content


# rerun


@dataclass(frozen=True, slots=True)
class Difference:
    """An item that is answered otherwise today."""

    index: int
    item: str
    lines: list[str]
    """`- ` what is recorded, `+ ` what came now."""


@dataclass
class Comparison:
    """Recorded results against those of today's code."""

    compared: int = 0
    differ: list[int] = field(default_factory=list)


def rerun(
    journal: Path,
    buffer_id: str,
    app: str,
    *,
    workers: int | None = None,
    tell: Callable[[Difference], None] = _say_nothing,
    watch: Callable[[int, int, int], None] = _say_nothing,
) -> Comparison:
    """Run a buffer's items through today's code, into a journal that is thrown away, and compare the answers.

    Answers are compared as canonical XML: quoting and the order of attributes do not matter. Items that have
    no recorded result are run and not compared. `tell` hears of each difference, `watch` of (total, recorded,
    failed) as it goes on. Raises NotFound, or BufferError when the app lacks the listener.
    """
    spec = spec_here(app)
    with JournalReader(journal) as reader, History(journal) as history:
        content = _content(reader, buffer_id)
        if not content.opened:
            raise UsageError(f"the items of {buffer_id} are still arriving")
        with tempfile.TemporaryDirectory(prefix="durable_bus_rerun_") as folder:
            scratch = Path(folder) / "rerun.db"
            with open_client(spec, app, scratch, workers, durability="normal") as client:
                again = client.start(content.target, history.items(content.buffer_seq), buffer_id=buffer_id)
                client.wait_until(lambda: _watched(again.status(), watch), buffer_id, None)
                items = history.items(content.buffer_seq)
                return _compare(reader.results(content.buffer_seq), again.results(), items, tell)


def _watched(status: Any, watch: Callable[[int, int, int], None]) -> bool:
    watch(status.total, status.completed, status.failed)
    return bool(status.state not in ("open", "receiving"))


def _compare(
    recorded: Iterator[Result],
    today: Iterator[Result],
    items: Iterator[Any],
    tell: Callable[[Difference], None],
) -> Comparison:
    comparison = Comparison()
    before = next(recorded, None)
    for now, item in zip(today, items, strict=True):
        if before is None:
            break
        if before.index != now.index:
            continue  # it has no recorded result
        comparison.compared += 1
        if _as_compared(before) != _as_compared(now):
            comparison.differ.append(now.index)
            tell(Difference(now.index, item.text, _lines(before, now)))
        before = next(recorded, None)
    return comparison


def _as_compared(result: Result) -> tuple[bool, bool, str]:
    payload = canonical(result.payload) if result.is_xml else result.payload
    return result.success, result.is_xml, payload


def _lines(before: Result, now: Result) -> list[str]:
    lines = list(difflib.ndiff(_readable(before), _readable(now)))
    lines = [line[:_DIFFERENCE_CHARS_MAX] for line in lines if not line.startswith("? ")]
    if len(lines) > _DIFFERENCE_LINES_MAX:
        lines = [*lines[:_DIFFERENCE_LINES_MAX], f"  … and {len(lines) - _DIFFERENCE_LINES_MAX} lines more"]
    return lines


def _readable(result: Result) -> list[str]:
    """An element a line, after a line that says what kind of answer it is."""
    success, is_xml, payload = _as_compared(result)
    kind = ("succeeded" if success else "failed") + ("" if is_xml else ", text")
    return [kind, *(payload.replace("><", ">\n<") if is_xml else payload).splitlines()]
