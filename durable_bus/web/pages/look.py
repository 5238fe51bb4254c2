"""What every page has: one look at the journal, its moment, who serves it, and how it is rendered."""

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from anyio import CapacityLimiter, to_thread
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from durable_bus import __version__
from durable_bus.cli.facts import supervisor_facts
from durable_bus.errors import JournalTooNew, StorageFailed
from durable_bus.journal.admin.console import ConsoleReader
from durable_bus.web import drawings
from durable_bus.web.actions import other_version
from durable_bus.web.shown import FILTERS, PAYLOAD_CHARS, moment_ago

__all__ = ["Look", "error_response", "page"]

_PIECES_AT_ONCE = 40
_ASKED_AGAIN_AFTER_S = 1.0
_FIRST_ANSWER_WITHIN_S = 0.1
"""A page does not wait longer for a daemon that may hang."""


class Served:
    """What the daemon says of itself, asked once a second at most, whoever looks."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._told: dict[str, Any] | None = None
        self._told_s = 0.0
        self._asking: threading.Thread | None = None

    def facts(self) -> dict[str, Any]:
        """As `supervisor_facts`; what it said last where it takes long to answer."""
        with self._lock:
            old = time.monotonic() - self._told_s > _ASKED_AGAIN_AFTER_S
            if old and self._asking is None:
                self._asking = threading.Thread(target=self._ask, name="durable_bus web", daemon=True)
                self._asking.start()
            asking = self._asking
        if asking is not None:
            asking.join(_FIRST_ANSWER_WITHIN_S)
        with self._lock:
            return self._told or {"state": "alive", "pid": None, "reason": "no answer yet"}

    def _ask(self) -> None:
        try:
            told = supervisor_facts(self._journal)
        except OSError as error:
            told = {"state": "hung", "pid": None, "reason": str(error)}
        with self._lock:
            self._told, self._told_s, self._asking = told, time.monotonic(), None


@cache
def _environment() -> Environment:
    folder = Path(__file__).parents[1] / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals["payload_chars"] = PAYLOAD_CHARS
    return environment


class Look:
    """One request's look at the journal. Everything that is read is of one moment."""

    def __init__(self, request: Request, reader: ConsoleReader) -> None:
        self.request = request
        self.reader = reader
        self.moment = reader.moment
        self.at = request.query_params.get("at") or None
        """The moment as it was asked for; None: now, and the page goes with the journal."""
        state = request.app.state
        if not hasattr(state, "served"):
            state.served = Served(state.journal)
        self.supervisor: dict[str, Any] = state.served.facts()
        self.now_ms = time.time_ns() // 1_000_000 if self.at is None else self.moment.at_ms

    def query(self, name: str) -> str | None:
        """A parameter of the address; None where it is empty, too."""
        return self.request.query_params.get(name, "").strip()[:200] or None

    def number(self, name: str) -> int | None:
        """The same as a whole number; None for what is none."""
        text = self.query(name) or ""
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None

    def url(self, *parts: object, **parameters: object) -> str:
        """A page's address, at the same moment."""
        path = "/" + "/".join(quote(str(part), safe="") for part in parts)
        given = {name: value for name, value in parameters.items() if value not in (None, "", False)}
        if self.at is not None:
            given.setdefault("at", self.at)
        return f"{path}?{urlencode(given)}" if given else path

    @cached_property
    def runs(self) -> list[dict[str, Any]]:
        """The last runs, as they are now."""
        return self.reader.runs(served=self.supervisor["state"] != "dead")

    @staticmethod
    def path(parts: Sequence[object]) -> str:
        """The address of an action: it has no moment."""
        return "/" + "/".join(quote(str(part), safe="") for part in parts)

    def with_at(self, commit: int) -> str:
        """This page, after a commit."""
        kept = [pair for pair in self.request.query_params.multi_items() if pair[0] not in ("at", "notice")]
        return f"{self.request.url.path}?{urlencode([*kept, ('at', commit)])}"

    @staticmethod
    def home_at(commit: int) -> str:
        """The overview, after a commit."""
        return f"/?at={commit}"

    def ago(self, time_ms: int | None) -> Markup:
        return moment_ago(time_ms, self.now_ms)

    def render(self, template: str, *, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(self._html(template, values), status)

    def stream(self, template: str, *, asks: bool, **values: Any) -> Response:
        """The same, its head sent at once: what the template calls must not need our reader, which is closed.
        `asks`: it calls what may take seconds. That waits for its turn, and pages do not wait for it.
        """
        made = _environment().get_template(template).stream(**self._base(), **values)
        made.enable_buffering(_PIECES_AT_ONCE)
        limiter = self.request.app.state.asking if asks else None
        return StreamingResponse(_head_and_rest(made, limiter), media_type="text/html")

    def _html(self, template: str, values: dict[str, Any]) -> str:
        return _environment().get_template(template).render(**self._base(), **values)

    def _base(self) -> dict[str, Any]:
        """What every page shows."""
        state, query = self.request.app.state, self.request.query_params
        run = self.reader.newest_run()
        served = self.supervisor["state"] != "dead"
        runs = self.runs
        other = other_version(self.reader.reader) if served else None
        moment = self.moment
        notice = self.request.app.state.notices.take(query["notice"]) if "notice" in query else None
        kept = [(name, value) for name, value in query.multi_items() if name not in ("at", "notice")]
        crashes = sorted(
            one["last_commit"] for one in runs if one["ended"] == "crashed" and one["last_commit"]
        )
        return {
            "look": self,
            "url": self.url,
            "ago": self.ago,
            "url_at": self.with_at,
            "at": self.at,
            "moment": moment,
            "journal": self.reader.path,
            "supervisor": self.supervisor,
            "run": run,
            "served": served,
            "other_version": other,
            "newer_schema": self.reader.is_of_a_newer_version,
            "may_act": not (
                state.read_only or self.at is not None or other or self.reader.is_of_a_newer_version
            )
            and served,
            "csrf": getattr(self.request.state, "csrf", ""),
            "notice": notice,
            "kept": kept,
            "here": self.request.url.path + (f"?{urlencode(kept)}" if kept else ""),
            "strip": drawings.runs_strip(runs, moment.oldest, moment.newest),
            "crash_before": max((c for c in crashes if c < moment.commit), default=None),
            "crash_after": min((c for c in crashes if c > moment.commit), default=None),
        }


async def _head_and_rest(made: Iterator[str], limiter: CapacityLimiter | None) -> AsyncIterator[str]:
    yield await to_thread.run_sync(next, made)
    # All of it in one go: who reads slowly is not to keep others from their turn.
    yield await to_thread.run_sync("".join, made, limiter=limiter)


def page(show: Callable[[Look], Response]) -> Callable[[Request], Response]:
    """A GET endpoint of a function that makes a page of a look. It runs in a thread."""

    def endpoint(request: Request) -> Response:
        began = time.thread_time()
        with ConsoleReader(request.app.state.journal, request.query_params.get("at") or None) as reader:
            try:
                response = show(Look(request, reader))
            except StorageFailed as error:
                if not reader.is_of_a_newer_version:
                    raise
                raise JournalTooNew(
                    f"the journal {reader.path} was made by a newer durable_bus, and lacks what this page of "
                    f"{__version__} reads: start the console anew, of the same version"
                ) from error
        request.app.state.live.page_took(time.thread_time() - began)
        return response

    return endpoint


def error_response(request: Request, status: int, message: str) -> Response:
    """A page that says what went wrong, without looking at the journal: that may be what went wrong."""
    titles = {
        400: "That cannot be asked",
        404: "Not found",
        405: "Not allowed",
        503: "The journal cannot be read",
    }
    title = titles.get(status, "Something went wrong")
    html = _environment().get_template("error.html").render(title=title, message=message, status=status)
    return HTMLResponse(html, status)
