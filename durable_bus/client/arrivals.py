"""The results of a buffer in the order in which they are to be given, while more are recorded."""

from collections.abc import Iterable, Iterator

from durable_bus.journal.reader import JournalReader
from durable_bus.journal.results import Run, run_of
from durable_bus.payloads.messages import Result

__all__ = ["Arrivals"]

_HELD_MAX = 10_000
"""So many runs wait for their items at most before more of what was recorded long ago is read."""


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
        """What can be given now of the first `taken` items; none when there is nothing new."""
        if self._before is None or len(self._held) < _HELD_MAX or min(self._held) < taken:
            self._held.update((run.first_index, run) for run in self._new())
        ready = self._next_ones(taken) if self._ordered else self._any(taken)
        self.given += sum(len(run.payloads) for run in ready)
        return ready

    def _next_ones(self, taken: int) -> list[Run]:
        ready = []
        index = self.given
        while (run := self._held.get(index)) is not None and index + len(run.payloads) <= taken:
            ready.append(self._held.pop(index))
            index += len(run.payloads)
        return ready

    def _any(self, taken: int) -> list[Run]:
        firsts = [first for first, run in self._held.items() if first + len(run.payloads) <= taken]
        return [self._held.pop(first) for first in firsts]

    def _new(self) -> Iterable[Run]:
        if self._before is not None:
            page = next(self._before, None)
            if page is not None:
                return map(run_of, [result for result in page if self._is_first(result.index)])
            self._before = None
        runs, self._after = self._reader.runs_after(self._buffer_seq, self._after)
        return [run for run in runs if self._is_first(run.first_index)] if self._seen else runs

    def _is_first(self, index: int) -> bool:
        if index >= len(self._seen):
            return True
        before, self._seen[index] = self._seen[index], 1
        return not before
