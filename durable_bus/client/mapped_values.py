"""The values that a call of `map` gives.

The buffer is a stream. What is asked for next comes first: items are read only while fewer than AHEAD are out
that were not given back, and in the caller's thread, so that a database cursor may be what is read.
"""

import contextlib
import itertools
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from durable_bus.client.arrivals import Arrivals
from durable_bus.client.buffer_ids import KEY_ITEMS, default_buffer_id, why_used
from durable_bus.client.client import Client
from durable_bus.client.embedded import OwnSupervisor
from durable_bus.client.feed import Feed, Recorded
from durable_bus.client.stream import AHEAD
from durable_bus.errors import BufferError, DurableBusError, ItemFailed, NotFound, TimedOut, UsageError
from durable_bus.journal.access import path_to_write
from durable_bus.journal.reader import BufferContent, JournalReader
from durable_bus.journal.results import Run
from durable_bus.payloads.exact import exact_texts
from durable_bus.payloads.forms import JSON, PICKLE, TEXT
from durable_bus.payloads.items import ItemsDigest
from durable_bus.payloads.json_values import load_json_lines
from durable_bus.payloads.messages import Result
from durable_bus.payloads.packing import pack
from durable_bus.payloads.settings import ValueForms
from durable_bus.payloads.values import ValueWriter

__all__ = ["MappedValues"]

_LOOK_S, _LOOK_MAX_S = 0.004, 0.032
"""How often the journal is looked at for results: at first, and when there are none for a while."""
_ROOM_MIN = 500
"""When as many items are out as may be, no more is read before there is room for so many. To send each few
that are done cost a commit each time: 12 us of the supervisor's time for an item of 1 ms.
"""


class MappedValues:
    """One call of `map`, whose supervisor has been started."""

    def __init__(self, target: str, journal: Path, buffer_id: str | None, known_as: str) -> None:
        """`known_as`: what a default id is made of, beside the first items."""
        self._target = target
        self._known_as = known_as
        self._journal = journal
        self._buffer_id = buffer_id
        self._writer = ValueWriter(ValueForms)

    def given(
        self, own: OwnSupervisor, items: Iterator[Any], *, ordered: bool, return_exceptions: bool
    ) -> Iterator[Any]:
        """What `map` gives, by its supervisor as far as it is not recorded. Raises what `map` raises."""
        first = list(itertools.islice(items, KEY_ITEMS if self._buffer_id is None else 1))
        if self._buffer_id is None:
            if not first:
                return
            self._buffer_id = self._id_of(first)
        items = itertools.chain(first, items)
        known = self._known()
        if known is None and not first:
            return
        if known is not None and known.sealed and known.ended:
            with JournalReader(self._journal) as reader:
                recorded = Recorded(reader.item_payloads(known.buffer_seq), known.total)
                feed = Feed(known.buffer_id, items, self._written, recorded, None)
                arrivals = Arrivals(reader, known.buffer_seq, known.total, ordered=ordered)
                yield from _given(_recorded(feed, arrivals), reader, known.buffer_seq, return_exceptions)
            return
        with own.client() as client:
            yield from self._stream(client, items, ordered=ordered, return_exceptions=return_exceptions)

    def _id_of(self, first: list[Any]) -> str:
        texts, forms = self._written(first, 0)
        if PICKLE in forms:
            from durable_bus.payloads.same_pickles import canonical

            several = zip(first, texts, forms, strict=True)
            texts = [canonical(item, text) if form == PICKLE else text for item, text, form in several]
        digest = ItemsDigest()
        digest.update(pack(texts), forms)
        return default_buffer_id(self._known_as, self._target, digest.hexdigest())

    def _stream(
        self, client: Client, items: Iterator[Any], *, ordered: bool, return_exceptions: bool
    ) -> Iterator[Any]:
        assert self._buffer_id is not None
        upload = client.stream_upload(self._target, self._buffer_id)
        there = upload.begin()
        reader, seq = client.reader(), there.buffer_seq
        recorded = Recorded(reader.item_payloads(seq), there.received)
        feed = Feed(self._buffer_id, items, self._written, recorded, None if there.existing else upload)
        arrivals = Arrivals(reader, seq, there.received, ordered=ordered)
        try:
            yield from _given(_arriving(client, feed, arrivals), reader, seq, return_exceptions)
        finally:
            feed.close()

    def _written(self, values: list[Any], first_index: int) -> tuple[list[str], bytes]:
        try:
            return exact_texts(self._writer, values)
        except Exception:
            for position, value in enumerate(values):  # one of them cannot be taken: this names it
                try:
                    exact_texts(self._writer, [value])
                except DurableBusError as error:
                    raise type(error)(f"item {first_index + position}: {error}") from None
                except Exception as error:
                    why = f"{type(value).__name__} cannot be pickled: {type(error).__name__}: {error}"
                    raise UsageError(f"item {first_index + position}: {why}") from error
            raise

    def _known(self) -> BufferContent | None:
        """The buffer, if the journal has it. Raises BufferError when nobody could go on with it."""
        try:
            with JournalReader(self._journal) as reader:
                known = reader.content(self._buffer_id or "")
        except NotFound:
            return None
        if known is None or not known.opened:
            return None
        path_to_write(self._journal)  # also when nothing is left to do: another user's records are not ours
        why = why_used(known, self._target)
        if why is None and known.ended and known.succeeded + known.failed < known.total:
            why = "it was cancelled"
        if why is not None:
            raise BufferError(known.buffer_id, why)
        return known


def _arriving(client: Client, feed: Feed, arrivals: Arrivals) -> Iterator[list[Run]]:
    """Runs of results, while items are put as long as there is room for them. Ends with the buffer."""
    look_s, feeding = _LOOK_S, True
    while True:
        room = arrivals.given + AHEAD - feed.read
        feeding = room >= (1 if feeding else _ROOM_MIN)
        if feeding and not feed.exhausted:
            feed.some(room)
            feeding = arrivals.given + AHEAD > feed.read
        seen = arrivals.counts()  # before the runs: what is recorded in between is not missed
        runs = arrivals.runs(feed.taken)
        if runs:
            look_s = max(_LOOK_S, look_s / 2)
            yield runs
        elif feed.exhausted or not feeding:
            total, _, _, ended = seen
            if ended and arrivals.given < total:
                raise BufferError(feed.buffer_id, "it was cancelled")
            if ended:
                return
            moved = partial(_has_moved, feed, feed.taken, arrivals, seen)
            with contextlib.suppress(TimedOut):
                client.wait_until(moved, feed.buffer_id, time.monotonic() + look_s)
            look_s = min(2 * look_s, _LOOK_MAX_S)


def _has_moved(feed: Feed, taken: int, arrivals: Arrivals, seen: tuple[int, int, int, bool]) -> bool:
    feed.check()
    return feed.taken != taken or arrivals.counts() != seen


def _recorded(feed: Feed, arrivals: Arrivals) -> Iterator[list[Run]]:
    """Those of a buffer that has ended, as far as its items are read again."""
    while not feed.exhausted:
        room = arrivals.given + AHEAD - feed.read
        if room > 0:
            feed.some(room)
        yield arrivals.runs(feed.taken)
    while runs := arrivals.runs(feed.taken):
        yield runs


def _given(
    found: Iterator[list[Run]], reader: JournalReader, buffer_seq: int, return_exceptions: bool
) -> Iterator[Any]:
    from durable_bus.payloads.reading import plain_value

    for runs in found:
        for run in runs:
            if run.failed is not None:
                failed = _failed(run.failed, reader.traceback_of(buffer_seq, run.first_index))
                if not return_exceptions:
                    raise failed
                yield failed
            elif run.form == TEXT:
                yield from run.payloads
            elif run.form == JSON:
                yield from load_json_lines(run.payloads)
            else:
                yield from (plain_value(payload, run.form) for payload in run.payloads)


def _failed(result: Result, traceback: str) -> ItemFailed:
    kind, _, message = (result.error or "").partition(": ")
    return ItemFailed(result.index, kind, message, traceback)
