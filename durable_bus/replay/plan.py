"""What a start would hand out now: the real supervisor is asked, on a private copy."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from durable_bus.journal.admin.scratch import scratch_copy
from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor.config import SupervisorConfig
from durable_bus.supervisor.context import Context, Ports
from durable_bus.supervisor.entries import ItemLease, Worker
from durable_bus.supervisor.io.clock import SystemClock
from durable_bus.supervisor.loop import Supervisor
from durable_bus.supervisor.scheduling.dispatcher import plan_items
from durable_bus.supervisor.scheduling.pacing import Gates
from durable_bus.wire.ids import new_id

__all__ = ["Plan", "plan"]

_FAR_FUTURE_MS = 1 << 52


@dataclass(frozen=True, slots=True)
class Plan:
    buffers: list[dict[str, Any]]
    """In their order: `buffer_id`, `outstanding` (how many items), `ranges` ([[first, count], …])."""
    paused: list[str]
    """Open buffers that nothing would be handed out of before a `resume`."""
    messages: dict[str, int]
    """How many messages wait for each name."""
    unsealed: list[str]
    """Streams into which more items may come."""


def plan(journal: Path) -> Plan:
    """Ask the supervisor. Retries that are due later are part of its answer. Raises a JournalError."""
    with scratch_copy(journal) as copy:
        clock = SystemClock()
        nobody: Any = _Nobody()
        supervisor = Supervisor(
            SupervisorConfig(app_name="plan", workers=1),
            copy,
            Ports(nobody, nobody, nobody, clock, new_id, lambda *_, **__: None),
        )
        supervisor.start()
        with copy.commit(clock.now_ms()):
            _hand_out_everything(supervisor.context)
        buffers = supervisor.state.buffers.values()
        handed_out = [one for one in supervisor.state.leases.values() if isinstance(one, ItemLease)]
        found = []
        for buffer in buffers:
            ranges = _merged(
                [(one.first, one.item_count) for one in handed_out if one.buffer_seq == buffer.seq]
            )
            if ranges:
                outstanding = sum(count for _, count in ranges)
                found.append({"buffer_id": buffer.buffer_id, "outstanding": outstanding, "ranges": ranges})
        return Plan(
            found,
            [buffer.buffer_id for buffer in buffers if buffer.paused],
            copy.messages.names_with_waiting(),
            [buffer.buffer_id for buffer in buffers if not buffer.sealed],
        )


class _Nobody:
    """Clients, a reactor, and workers that have begun nothing: all that a plan asks of them."""

    started = 0

    def slot(self, worker_id: int) -> "_Nobody":
        return self


def _hand_out_everything(context: Context) -> None:
    """Give all there is to one worker that knows every listener and always has room."""
    state = context.state
    targets = {buffer.target for buffer in state.buffers.values()}
    for buffer_seq in [*state.buffers]:  # a plan says what is to be done, not how much of it at once
        state.buffers.change(buffer_seq, budget_of=None)
    state.item_us = dict.fromkeys(targets, 1.0)  # fast, so that batches are as large as they may be
    listeners = {target: ListenerSettings(target, None, 1, 0.0, 1, False, None) for target in targets}
    worker = Worker(worker_id=0, pid=os.getpid(), listeners=listeners)
    next_ordinal = rounds_without = 0
    while rounds_without < 2:
        state.workers[0] = replace(worker, next_ordinal=next_ordinal)
        plan_items(context, _FAR_FUTURE_MS, Gates(context))
        given = state.workers[0].next_ordinal - next_ordinal
        rounds_without = 0 if given or state.plan_unfinished else rounds_without + 1
        next_ordinal += given


def _merged(ranges: list[tuple[int, int]]) -> list[list[int]]:
    """Ranges in order, those that touch as one."""
    merged: list[list[int]] = []
    for first, count in sorted(ranges):
        if merged and merged[-1][0] + merged[-1][1] == first:
            merged[-1][1] += count
        else:
            merged.append([first, count])
    return merged
