"""The results of a buffer in the order in which they are to be given, while more are recorded."""

from collections.abc import Iterable, Iterator

from durable_bus.journal.reader import JournalReader
from durable_bus.journal.results import Run, run_of
from durable_bus.payloads.messages import Result

__all__ = ["Arrivals"]

_HELD_MAX = 10_000
"""While so many runs wait, for their items or for one before them, nothing more of before is read."""


class Arrivals:
    """Runs of results in the order of their items, or of recording. None comes twice, and none before its
    items were read and compared.
    """

    def __init__(self, reader: JournalReader, buffer_seq: int, received: int, *, ordered: bool) -> None:
        """`received`: so many items were there before; some of them have results."""
        self._reader = reader
        self._buffer_seq = buffer_seq
        self._ordered = ordered
        self._after = reader.newest_answer(buffer_seq)
        self._before: Iterator[list[Result]] | None = reader.pages(buffer_seq) if self._after else None
        """What was recorded before, in item order; what came since then may be among it, and comes again."""
        self._seen = bytearray(0 if self._before is None else received)
        self._held: dict[int, Run] = {}
        """By the index of the first item."""
        self.given = 0

    def counts(self) -> tuple[int, int, int, bool]:
        """Items, results that are successes, failures, and whether the buffer has ended."""
        return self._reader.counts(self._buffer_seq)

    def runs(self, taken: int) -> list[Run]:
        """What can be given now of the first `taken` items; none when there is nothing new. What comes later
        in turn is kept, and more is read: there may be no news after it to look again for.
        """
        ready = self._ready(taken)
        while not ready and self._read_more():
            ready = self._ready(taken)
        self.given += sum(len(run.payloads) for run in ready)
        return ready

    def _ready(self, taken: int) -> list[Run]:
        if not self._ordered:
            firsts = [first for first, run in self._held.items() if first + len(run.payloads) <= taken]
            return [self._held.pop(first) for first in firsts]
        ready = []
        index = self.given
        while (run := self._held.get(index)) is not None and index + len(run.payloads) <= taken:
            ready.append(self._held.pop(index))
            index += len(run.payloads)
        return ready

    def _read_more(self) -> bool:
        """Read the next runs, which may all have been given before; False when there are none."""
        runs: Iterable[Run]
        if self._before is not None and len(self._held) <= _HELD_MAX:
            there = len(self._seen)
            page = next(self._before, [])
            if not page or page[-1].index >= there:
                self._before = (
                    None  # what is behind those that were there was recorded since, and comes below
                )
            if page:
                first = [result for result in page if result.index < there and self._is_first(result.index)]
                self._held.update((run.first_index, run) for run in map(run_of, first))
                return True
        runs, after = self._reader.runs_after(self._buffer_seq, self._after)
        if after == self._after:
            return False
        self._after = after
        if self._seen:
            runs = [part for run in runs for part in self._not_seen(run)]
        self._held.update((run.first_index, run) for run in runs)
        return True

    def _not_seen(self, run: Run) -> list[Run]:
        """What of a run was not among the pages before. It may begin with items that were there, and end with
        some that came since.
        """
        first, end = run.first_index, run.first_index + len(run.payloads)
        if not any(self._seen[first:end]):
            self._seen[first:end] = b"\1" * len(self._seen[first:end])
            return [run]
        return [
            run._replace(first_index=index, payloads=[payload])
            for index, payload in enumerate(run.payloads, first)
            if index >= len(self._seen) or self._is_first(index)
        ]

    def _is_first(self, index: int) -> bool:
        before, self._seen[index] = self._seen[index], 1
        return not before
