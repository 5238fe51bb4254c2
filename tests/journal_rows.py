"""Rows of a journal, written by its own writer without a supervisor. Inside `Journal.commit()`."""

from durable_bus.journal.journal import Journal
from durable_bus.payloads.packing import pack

__all__ = ["add_buffer"]


def add_buffer(opened: Journal, buffer_id: str, payloads: list[str], forms: str) -> int:
    """A buffer that is open, with these items; its `buffer_seq`. `forms`: as `payloads.forms.digits_of`."""
    row = opened.buffers.add_whole(
        pack(payloads),
        forms,
        digest="digest",
        buffer_id=buffer_id,
        target="work",
        return_to="",
        from_id="cli",
        thread_id=f"t/{buffer_id}",
        starter_thread_id="t",
        collect=True,
        request_id=buffer_id,
        retry_of=None,
        priority=0,
        not_before=None,
        deadline_at=None,
        enough=None,
        max_failures=None,
        budget_of=None,
    )
    return row.buffer_seq
