"""The console as one ASGI app: its pages, its actions, what programs read, and what it does about errors."""

import time
from pathlib import Path

from anyio import CapacityLimiter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from durable_bus.cli.facts import supervisor_facts
from durable_bus.errors import (
    BufferError,
    DurableBusError,
    LimitExceeded,
    MessageRefused,
    NotFound,
    UsageError,
    one_line,
)
from durable_bus.journal.admin.metrics import measure
from durable_bus.metrics.exposition import CONTENT_TYPE
from durable_bus.metrics.page import page
from durable_bus.web import actions, pages
from durable_bus.web.guard import Guard
from durable_bus.web.live import Live
from durable_bus.web.notices import Notices

__all__ = ["Console", "make_app"]

_STATIC = Path(__file__).with_name("static")
_QUESTIONS_AT_ONCE_MAX = 4
_REFUSALS = (UsageError, BufferError, LimitExceeded, MessageRefused)


class Console(Guard):
    """The whole app. `inside.state.live` must be told when the server ends."""

    def __init__(self, inside: Starlette, *, token: str, host: str, port: int) -> None:
        super().__init__(inside, token=token, host=host, port=port)
        self.inside = inside


def make_app(journal: Path, *, token: str, host: str, port: int, read_only: bool) -> Console:
    """`host` and `port`: where it listens, as it was told to. `read_only`: it has no actions at all."""
    live = Live(journal)
    inside = Starlette(
        routes=[
            *pages.routes,
            *([] if read_only else actions.routes),
            Route("/metrics", _metrics, methods=["GET"]),
            Route("/live", live, methods=["GET"]),
            Mount("/static", StaticFiles(directory=_STATIC, check_dir=False)),
        ],
        exception_handlers={
            HTTPException: _http_error,
            DurableBusError: _error,
            MemoryError: _no_memory,
            Exception: _bug,
        },
    )
    inside.router.redirect_slashes = False  # each page has one address
    inside.state.journal = journal
    inside.state.read_only = read_only
    inside.state.live = live
    inside.state.notices = Notices()
    inside.state.acting = CapacityLimiter(actions.AT_ONCE_MAX)
    inside.state.asking = CapacityLimiter(_QUESTIONS_AT_ONCE_MAX)
    return Console(inside, token=token, host=host, port=port)


def _metrics(request: Request) -> Response:
    """In a thread, as every handler that is no coroutine: it takes seconds of a big journal."""
    journal: Path = request.app.state.journal
    text = page(measure(journal, time.time_ns() // 1_000_000), supervisor_facts(journal))
    return Response(text, media_type=None, headers={"Content-Type": CONTENT_TYPE})


# Errors


def status_of(error: DurableBusError) -> int:
    if isinstance(error, NotFound):
        return 404
    return 400 if isinstance(error, _REFUSALS) else 503


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = pages.error_response(request, error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


def _error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DurableBusError)
    return pages.error_response(request, status_of(error), one_line(str(error)))


def _no_memory(request: Request, error: Exception) -> Response:
    return pages.error_response(request, 503, "SQL that somebody asks takes all memory that is for it: wait")


def _bug(request: Request, error: Exception) -> Response:
    """The guard, to which the exception goes on, logs it."""
    return pages.error_response(request, 500, "This is a bug of durable_bus. What failed is on stderr.")
