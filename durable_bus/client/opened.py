"""A journal read by itself: nobody has to serve it, and nothing of it is changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from durable_bus.client.buffer import BufferStatus, status_of, with_plain_item
from durable_bus.client.limits import Limit, Spending, limits_of
from durable_bus.journal.reader import JournalReader
from durable_bus.payloads.messages import Result

__all__ = ["Failure", "OpenedJournal"]


class Failure(NamedTuple):
    """An attempt at an item that failed; the item may have succeeded later.

    - `kind`: exception, timeout, lost, malformed, answer, or retry_after.
    - `traceback`: None where there is none.
    - `failed_at`: when it was recorded, milliseconds since the epoch, UTC.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a failure
    attempt: int
    kind: str
    message: str
    traceback: str | None
    failed_at: int


class OpenedJournal:
    """A journal, opened to be read: `with durable_bus.open("journal.db") as journal:`. It needs no
    supervisor, and changes nothing. Threads may share one; a daemon may write at the same time.
    """

    def __init__(self, journal: str | os.PathLike[str] = "journal.db") -> None:
        """`durable_bus.open`. Raises NotFound when there is no such file, and a JournalError for a file that
        is no journal, or of another version.
        """
        self.journal = Path(journal)
        self._reader = JournalReader(self.journal)

    def __repr__(self) -> str:
        return f"<OpenedJournal {str(self.journal)!r}>"

    def __enter__(self) -> OpenedJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()

    def buffers(self) -> Iterator[BufferStatus]:
        """Every buffer, in the order they were started."""
        return map(status_of, self._reader.buffers())

    def results(self, buffer_id: str, *, with_items: bool = False) -> Iterator[Result]:
        """Every result that is recorded so far, in item order; of a pruned buffer none. `with_items`: with
        `Result.item`, as `Buffer.results` gives it. Raises NotFound.
        """
        results = self._reader.results(self._reader.buffer_seq(buffer_id), with_items=with_items)
        return map(with_plain_item, results) if with_items else results

    def failures(self, buffer_id: str) -> Iterator[Failure]:
        """Every failed attempt at an item of the buffer, in item order. Raises NotFound."""
        return map(Failure._make, self._reader.failures(self._reader.buffer_seq(buffer_id)))

    def limits(self) -> dict[str, Limit]:
        """The limits of the app that was served last, by name."""
        return limits_of(self._reader.limits())

    def spending(self, buffer_id: str | None = None) -> list[Spending]:
        """What was spent, by buffer, listener and unit; None: of all buffers. Raises NotFound."""
        return [Spending(**row) for row in self._reader.spending(buffer_id)]
