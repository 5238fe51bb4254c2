"""`/live`: tells each page that is open when something has happened, by Server-Sent Events.

One task looks at the journal for all of them, while there is at least one. What it sees is no list of
changes: a page asks for itself anew. So a client that reads slowly misses nothing when it gets only the last
of several events.
"""

import asyncio
import contextlib
import json
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from durable_bus.errors import DurableBusError
from durable_bus.journal.admin.changes import JournalChanges, Seen

__all__ = ["CONNECTIONS_MAX", "Live"]

CONNECTIONS_MAX: Final = 100
RETRY_AFTER_S: Final = 5
ALIVE_EVERY_S: Final = 15.0
"""A line that says nothing, so that nobody between us and the browser takes the connection for dead."""

_INTERVAL_S_MIN = 1.0
_INTERVAL_S_MAX = 1.5
_PAGES_PER_LOOK = 60
"""Where a page takes 20 ms of a core to make, pages are made anew every 1.2 s: the console is not to be what
the machine is busy with. What is around a page takes half as much again.
"""
_LATELY = 20
_ALIVE = b": alive\n\n"
_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
_LOG = logging.getLogger("durable_bus.web")


class _Subscriber:
    """A connection. `wake` is set when there is a new event, and when the connection has gone."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.gone = False


class Live:
    """An ASGI endpoint. Call all of it but `page_took` in the event loop."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._subscribers: set[_Subscriber] = set()
        self._looking: asyncio.Task[None] | None = None
        self._event = b""
        """The newest; empty before the first look."""
        self._ended = False
        self._pages_s: deque[float] = deque(maxlen=_LATELY)

    def page_took(self, seconds: float) -> None:
        """So much time of a core it took to make a page. Any thread may say so."""
        self._pages_s.append(seconds)

    @property
    def interval_s(self) -> float:
        """How long to wait between two looks."""
        pages_s = [*self._pages_s]
        average_s = sum(pages_s) / len(pages_s) if pages_s else 0.0
        return max(_INTERVAL_S_MIN, min(_INTERVAL_S_MAX, _PAGES_PER_LOOK * average_s))

    def end(self) -> None:
        """The server ends: all connections end, and no new one begins."""
        self._ended = True
        self._wake_all()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._ended or len(self._subscribers) >= CONNECTIONS_MAX:
            why = "the console ends" if self._ended else f"{CONNECTIONS_MAX} pages are listening already"
            response = PlainTextResponse(f"{why}\n", 503, headers={"Retry-After": str(RETRY_AFTER_S)})
            await response(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        subscriber = _Subscriber()
        watching = asyncio.create_task(_watch(receive, subscriber))
        self._add(subscriber)
        try:
            await self._tell(subscriber, send)
        finally:
            self._remove(subscriber)
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        await send({"type": "http.response.body", "body": b""})

    async def _tell(self, subscriber: _Subscriber, send: Send) -> None:
        """Until the connection has gone, or the server ends."""
        told = b""
        while not (subscriber.gone or self._ended):
            subscriber.wake.clear()
            if self._event != told:
                told = self._event
                await send({"type": "http.response.body", "body": told, "more_body": True})
            try:
                await asyncio.wait_for(subscriber.wake.wait(), ALIVE_EVERY_S)
            except TimeoutError:
                await send({"type": "http.response.body", "body": _ALIVE, "more_body": True})

    def _add(self, subscriber: _Subscriber) -> None:
        self._subscribers.add(subscriber)
        if self._looking is None:
            self._event = b""
            self._looking = asyncio.create_task(self._look_for_ever())

    def _remove(self, subscriber: _Subscriber) -> None:
        self._subscribers.discard(subscriber)
        if not self._subscribers and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _wake_all(self) -> None:
        for subscriber in self._subscribers:
            subscriber.wake.set()

    async def _look_for_ever(self) -> None:
        changes = JournalChanges(self._journal)
        # Not one of the threads that make pages: all of those may be busy, and nobody would be told.
        thread = ThreadPoolExecutor(1, "durable_bus live")
        loop = asyncio.get_running_loop()
        seen: Seen | str | None = None
        try:
            while True:
                next_s = loop.time() + self.interval_s
                before, seen = seen, await loop.run_in_executor(thread, _look, changes)
                if seen != before:
                    self._event = _event(seen)
                    self._wake_all()
                await asyncio.sleep(max(0.0, next_s - loop.time()))
        finally:
            thread.submit(changes.close)  # behind a look that goes on although we were cancelled
            thread.shutdown(wait=False)


def _look(changes: JournalChanges) -> Seen | str:
    """What is seen, or why nothing is."""
    try:
        return changes.look()
    except (DurableBusError, OSError) as error:
        return str(error)
    except Exception as error:
        _LOG.exception("a look at the journal failed")
        return f"the console cannot look at it: {type(error).__name__}"


def _event(seen: Seen | str) -> bytes:
    if isinstance(seen, str):
        return f"event: lost\ndata: {json.dumps({'reason': seen})}\n\n".encode()
    data = json.dumps({"commit": seen.commit, "served": seen.served})
    return f"event: changed\ndata: {data}\nid: {seen.commit}\n\n".encode()


async def _watch(receive: Receive, subscriber: _Subscriber) -> None:
    """Wait until the connection has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    subscriber.gone = True
    subscriber.wake.set()
