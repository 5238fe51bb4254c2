"""Opening a buffer, whoever starts it: a client (`requests.starts`) or a handler (`conversations`)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from durable_bus.errors import BufferError, UsageError
from durable_bus.journal.buffers import BufferRow
from durable_bus.payloads.messages import check_name
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import OpenBuffer
from durable_bus.supervisor.outcomes import budgets, threads
from durable_bus.supervisor.outcomes.threads import Chain

__all__ = ["NewBuffer", "begin", "check", "is_known", "open_whole", "take_in"]


class NewBuffer(NamedTuple):
    """A buffer that is not in the journal yet."""

    buffer_id: str
    target: str
    return_to: str
    from_id: str
    starter_thread_id: str
    collect: bool
    request_id: str
    chain: Chain | None = None
    """Of the new thread that it is started on; None: that thread is there."""
    retry_of: int | None = None
    priority: int = 0
    not_before: int | None = None
    deadline_at: int | None = None
    enough: int | None = None
    max_failures: int | None = None
    budget_of: int | None = None
    """0: its own."""
    budget: Mapping[str, float] = {}
    traceparent: str | None = None

    @property
    def thread_id(self) -> str:
        return f"{self.starter_thread_id}/{self.buffer_id}"


def is_known(context: Context, name: str) -> bool:
    """A listener of the newest table, or a mailbox."""
    return name in (context.state.listeners or {}) or context.journal.messages.has_mailbox(name)


def check(context: Context, said_id: str, buffer_id: str, target: str, return_to: str) -> None:
    """Raises BufferError for a start that nobody could carry out or answer."""
    listeners = context.state.listeners or {}
    if target not in listeners:
        known = ", ".join(sorted(listeners)) or "none"
        raise BufferError(said_id, f"unknown target {target!r:.120}; the listeners are: {known}")
    if return_to and not is_known(context, return_to):
        raise BufferError(said_id, f"unknown return_to {return_to!r:.120}")
    try:
        check_name(buffer_id, "buffer")
    except UsageError as error:
        raise BufferError("unknown", str(error)) from None


def begin(context: Context, new: NewBuffer) -> int:
    """A buffer whose items come later; its `buffer_seq`."""
    buffer_seq = context.journal.buffers.add(**_begin(context, new))
    context.journal.pace.grant(buffer_seq, new.budget)
    return buffer_seq


def open_whole(
    context: Context, new: NewBuffer, items: bytes, forms: str, digest: str, count: int | None = None
) -> BufferRow:
    """Open a buffer with all its items, which are as `BufferTable.add_whole` takes them."""
    buffers = context.journal.buffers
    row = buffers.add_whole(items, forms, digest=digest, count=count, **_begin(context, new))
    context.journal.pace.grant(row.buffer_seq, new.budget)
    take_in(context, row)
    return row


def take_in(context: Context, row: BufferRow, *, recovered: bool = False, **more: Any) -> None:
    """A buffer that has just opened, or that a new run found open: from now on the dispatcher sees it.

    `recovered`: an earlier run has handed out some of it.
    """
    buffer = context.state.buffers[row.buffer_seq] = OpenBuffer(
        seq=row.buffer_seq,
        buffer_id=row.buffer_id,
        target=row.target,
        return_to=row.return_to,
        from_id=row.from_id,
        thread_id=row.thread_id,
        starter_thread_id=row.starter_thread_id,
        collect=bool(row.collect),
        total=row.item_count,
        sealed=row.sealed_commit is not None,
        recorded=row.succeeded + row.failed,
        failed=row.failed,
        cursor=row.low_water,
        recovered_to=row.item_count if recovered else 0,
        passed_on=recovered,
        priority=row.priority,
        waits_since_s=context.now_s(),
        not_before=row.not_before,
        deadline_at=row.deadline_at,
        enough=row.enough,
        max_failures=row.max_failures,
        budget_of=row.budget_of,
        traceparent=row.traceparent,
        **more,
    )
    budgets.take_in(context, buffer)


def _begin(context: Context, new: NewBuffer) -> dict[str, Any]:
    """Begin its threads; the columns of its row."""
    if new.chain is None:
        chain = threads.lookup(context.journal, new.starter_thread_id) or Chain()
        threads.set_chain(context.journal, chain, new.thread_id)
    else:
        threads.set_chain(context.journal, new.chain, new.starter_thread_id, new.thread_id)
    columns = {**new._asdict(), "thread_id": new.thread_id}
    del columns["chain"], columns["budget"]
    return columns
