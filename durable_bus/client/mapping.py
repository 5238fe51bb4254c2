"""`durable_bus.map`: a function over an iterable, kept in a journal.

The buffer is a stream. What is asked for next comes first: items are read only while fewer than AHEAD are out
that were not given back, and in the caller's thread, so that a database cursor may be what is read.
"""

import hashlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from durable_bus.app.bus import check_attempts, check_timeout
from durable_bus.app.finding import function_spec
from durable_bus.client.client import Client, check_buffer_id, refuse_inside_handler
from durable_bus.client.embedded import check_workers, open_client
from durable_bus.client.feed import Feed
from durable_bus.client.stream import AHEAD
from durable_bus.errors import BufferError, DurableBusError, ItemFailed, NotFound, UsageError
from durable_bus.journal.access import path_to_write
from durable_bus.journal.reader import BufferContent, JournalReader
from durable_bus.payloads.exact import exact_texts
from durable_bus.payloads.forms import FORM_NAMES, PICKLE
from durable_bus.payloads.items import ItemsDigest
from durable_bus.payloads.messages import Result, check_name
from durable_bus.payloads.packing import pack
from durable_bus.payloads.settings import AppSpec, MappedSettings, ValueForms
from durable_bus.payloads.values import ValueWriter
from durable_bus.wire.spawning import INSIDE_HANDLER_VARIABLE

__all__ = ["KEY_ITEMS", "Arrivals", "default_buffer_id", "listener_name", "map"]

KEY_ITEMS = 256
"""So many items, the first ones, make the id of a buffer that was given none."""
_DIGEST_CHARS = 16
_LOOK_S = 0.005
"""How often the journal is looked at for results."""

Item = TypeVar("Item")
Value = TypeVar("Value")


def map(
    function: Callable[[Item], Value],
    items: Iterable[Item],
    *,
    journal: str | os.PathLike[str] = "journal.db",
    workers: int | None = None,
    buffer_id: str | None = None,
    ordered: bool = True,
    return_exceptions: bool = False,
    timeout: float | None = 3600.0,
    attempts: int = 1,
) -> Iterator[Value]:
    """Call a function with every item, in worker processes, and give what it returns: a generator of values,
    in the order of the items. Every item and value is in the journal when its value is given.

    The same call again, after whatever has stopped it, gives what is recorded and runs what is missing.

    - `function`: any that workers can import, sync or async. What it is given and returns comes back equal and
      of the same type: as text and JSON where that holds, else as a pickle.
    - `items`: any iterable, also an endless one. At most 10,000 items are read before their values are asked
      for, in the thread that asks.
    - `journal`: the file, made when there is none. Nobody else may serve it meanwhile.
    - `workers`: how many processes. The default is the number of usable cores.
    - `buffer_id`: what the journal calls it. The default is made of the function's name, where it is, and the
      first 256 items: other items need an id of their own when they begin with the same.
    - `ordered`: False gives values as they are recorded.
    - `return_exceptions`: True gives the ItemFailed of a failed item in the place of its value; else it is
      raised at its turn, and the same call again raises it again.
    - `timeout`: seconds that an item may take, None for no limit. `attempts`: how often it is tried.

    Raises UsageError, at once, for what cannot be; BufferError for an id that was used with other items,
    naming the first that differs; ItemFailed; and what `Bus.running` raises. When the generator is closed
    before its end, what runs is finished and recorded, and nothing is left behind but the journal.
    """
    _refuse_in_import(function)
    settings = MappedSettings(listener_name(function), check_timeout(timeout), check_attempts(attempts))
    app = function_spec(function, settings)
    if not isinstance(items, Iterable) and not hasattr(items, "__getitem__"):
        raise UsageError(f"items must be an iterable of items, not {type(items).__name__}")
    if buffer_id is not None:
        check_buffer_id(buffer_id)
    check_workers(workers)
    refuse_inside_handler(Path(journal))
    mapped = _Mapped(app, Path(journal), workers, buffer_id)
    values: Iterator[Any] = mapped.values(iter(items), ordered=ordered, return_exceptions=return_exceptions)
    return values


def _refuse_in_import(function: Callable[..., Any]) -> None:
    """A worker that imports the function would call us again, and its workers would, too. Raises UsageError."""
    name = getattr(function, "__module__", None) or ""
    module = sys.modules.get(name)
    if name == "__mp_main__":
        being_imported = module is not sys.modules["__main__"]
    else:
        being_imported = getattr(getattr(module, "__spec__", None), "_initializing", False)
    if being_imported and INSIDE_HANDLER_VARIABLE in os.environ:
        raise UsageError(
            f"a worker that imports {getattr(module, '__file__', name)} comes to this call of map: put it under "
            '`if __name__ == "__main__":`'
        )


def listener_name(function: Callable[..., Any]) -> str:
    """What the listener is called that a function becomes."""
    name = getattr(function, "__name__", "")
    try:
        return check_name(name, "listener")
    except UsageError:
        return "map"


def default_buffer_id(app: AppSpec, target: str, body: bytes, forms: bytes) -> str:
    """The same for the same app or function, target and first items."""
    digest = ItemsDigest()
    digest.update(body, forms)
    text = "\n".join([f"{app.value}:{app.attribute}", target, digest.hexdigest()])
    suffix = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_CHARS]
    return f"{target[:60]}-{suffix}"


class _Mapped:
    """One call of `map`."""

    def __init__(self, app: AppSpec, journal: Path, workers: int | None, buffer_id: str | None) -> None:
        assert app.mapped is not None
        self._app = app
        self._target = app.mapped.listener
        self._journal = journal
        self._workers = workers
        self._buffer_id = buffer_id
        self._writer = ValueWriter(ValueForms)

    def values(self, items: Iterator[Any], *, ordered: bool, return_exceptions: bool) -> Iterator[Any]:
        # A script is `__mp_main__` in a worker, and so are the classes of what it pickles.
        sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
        first = list(itertools.islice(items, KEY_ITEMS if self._buffer_id is None else 1))
        if self._buffer_id is None:
            if not first:
                return
            texts, forms = self._written(first, 0)
            if PICKLE in forms:
                from durable_bus.payloads.same_pickles import canonical

                several = zip(first, texts, forms, strict=True)
                texts = [canonical(item, text) if form == PICKLE else text for item, text, form in several]
            self._buffer_id = default_buffer_id(self._app, self._target, pack(texts), forms)
        items = itertools.chain(first, items)
        known = self._known()
        if known is None and not first:
            return
        if known is not None and known.sealed and known.ended:
            with JournalReader(self._journal) as reader:
                feed = Feed(
                    known.buffer_id,
                    items,
                    self._written,
                    reader.item_payloads(known.buffer_seq),
                    known.total,
                    None,
                )
                arrivals = Arrivals(reader, known.buffer_seq, known.total, ordered=ordered)
                yield from _given(_recorded(feed, arrivals), reader, known.buffer_seq, return_exceptions)
            return
        with self._open() as client:
            yield from self._stream(client, items, ordered=ordered, return_exceptions=return_exceptions)

    def _stream(
        self, client: Client, items: Iterator[Any], *, ordered: bool, return_exceptions: bool
    ) -> Iterator[Any]:
        buffer_id = self._buffer_id
        assert buffer_id is not None
        upload = client.stream_upload(self._target, buffer_id)
        receiving = upload.begin()
        reader, buffer_seq, received = client.reader(), receiving.buffer_seq, receiving.received
        recorded = reader.item_payloads(buffer_seq)
        if receiving.existing:
            feed = Feed(buffer_id, items, self._written, recorded, received, None)
        else:
            feed = Feed(buffer_id, items, self._written, recorded, received, upload)
        arrivals = Arrivals(reader, buffer_seq, received, ordered=ordered)
        sealed = receiving.existing

        def pages() -> Iterator[list[Result]]:
            nonlocal sealed
            while True:
                room = arrivals.given + AHEAD - feed.read
                if room > 0 and not feed.exhausted:
                    feed.some(room)
                    if feed.exhausted and not sealed:
                        upload.seal()
                        sealed = True
                seen = reader.counts(buffer_seq)  # before the page: what is recorded in between is not missed
                page = arrivals.page(feed.read)
                if page:
                    yield page
                elif feed.exhausted or arrivals.given + AHEAD <= feed.read:
                    if seen[3]:
                        if arrivals.given < seen[0]:
                            raise BufferError(buffer_id, "it was cancelled")
                        return
                    client.wait_until(
                        lambda seen=seen: reader.counts(buffer_seq) != seen, buffer_id, None, look_s=_LOOK_S
                    )

        yield from _given(pages(), reader, buffer_seq, return_exceptions)

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
        """The buffer, if the journal has it. Raises BufferError when it is not one that could be gone on with."""
        try:
            with JournalReader(self._journal) as reader:
                known = reader.content(self._buffer_id or "")
        except NotFound:
            return None
        if known is None or not known.opened:
            return None
        path_to_write(self._journal)  # also when all is recorded: another user's records are not what is asked for
        why = None
        if known.target != self._target or known.return_to or not known.collect:
            why = "this id is used already, with other target, collect or return_to"
        elif known.pruned:
            why = "its items and results were pruned, and its id stays used"
        elif known.ended and known.succeeded + known.failed < known.total:
            why = "it was cancelled"
        if why is not None:
            raise BufferError(known.buffer_id, why)
        return known

    def _open(self) -> Client:
        return open_client(self._app, f"{self._app.value}:{self._app.attribute}", self._journal, self._workers)


class Arrivals:
    """The results of a buffer in the order in which they are to be given: of the items, or of recording. None
    comes twice, and none before its item was read and compared.
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
        self._held: dict[int, Result] = {}
        self._next = 0
        self.given = 0

    def page(self, read: int) -> list[Result]:
        """What can be given now of the first `read` items; none when there is nothing new."""
        ready: list[Result] = []
        page: list[Result] | None = []
        while page is not None and not ready:
            if self._before is not None and len(self._held) > AHEAD and min(self._held) >= read:
                return []  # its items come first
            page = self._new()
            if not self._held and page and self._is_next(page, read):
                ready = page
            else:
                self._held.update((result.index, result) for result in page or ())
                ready = self._ready(read)
        self._next += len(ready)
        self.given += len(ready)
        return ready

    def _is_next(self, page: list[Result], read: int) -> bool:
        """Whether all of it can be given as it is."""
        last = page[-1].index
        if not self._ordered:
            return all(result.index < read for result in page)
        return page[0].index == self._next and last < read and last - self._next + 1 == len(page)

    def _ready(self, read: int) -> list[Result]:
        if not self._ordered:
            indexes = [index for index in self._held if index < read]
            return [self._held.pop(index) for index in indexes]
        ready = []
        index = self._next
        while index < read and index in self._held:
            ready.append(self._held.pop(index))
            index += 1
        return ready

    def _new(self) -> list[Result] | None:
        """None: all that is recorded now was looked at."""
        if self._before is not None:
            page = next(self._before, [])
            if page and page[-1].index < len(self._seen):
                return [result for result in page if self._is_first(result.index)]
            # What came behind those that were there was recorded since then: it comes below.
            self._before = None
            if page:
                return [
                    result for result in page if result.index < len(self._seen) and self._is_first(result.index)
                ]
        after = self._after
        page, self._after = self._reader.results_after(self._buffer_seq, after)
        if self._seen:
            page = [result for result in page if self._is_first(result.index)]
        return None if self._after == after else page

    def _is_first(self, index: int) -> bool:
        if index >= len(self._seen):
            return True
        before, self._seen[index] = self._seen[index], 1
        return not before


def _recorded(feed: Feed, arrivals: Arrivals) -> Iterator[list[Result]]:
    """The pages of a buffer that has ended, as far as its items are read again."""
    while not feed.exhausted:
        room = arrivals.given + AHEAD - feed.read
        if room > 0:
            feed.some(room)
        yield arrivals.page(feed.read)
    while page := arrivals.page(feed.read):
        yield page


def _given(
    pages: Iterator[list[Result]], reader: JournalReader, buffer_seq: int, return_exceptions: bool
) -> Iterator[Any]:
    from durable_bus.payloads.reading import plain_value

    for page in pages:
        for result in page:
            if result.success:
                if result.form == "text":
                    yield result.payload
                else:
                    yield plain_value(result.payload, FORM_NAMES.index(result.form))
            else:
                failed = _failed(result, reader.traceback_of(buffer_seq, result.index))
                if not return_exceptions:
                    raise failed
                yield failed


def _failed(result: Result, traceback: str) -> ItemFailed:
    kind, _, message = (result.error or "").partition(": ")
    return ItemFailed(result.index, kind, message, traceback)
