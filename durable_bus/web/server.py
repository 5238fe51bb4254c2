"""The console's process: a socket that listens, uvicorn behind it, and how it all ends."""

import asyncio
import contextlib
import ctypes
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from anyio import to_thread

from durable_bus.errors import UsageError, said
from durable_bus.journal.admin.query import bound_memory
from durable_bus.journal.connection import open_reader
from durable_bus.web.app import Console, make_app
from durable_bus.web.connection import REQUEST_WITHIN_S, Connection

__all__ = ["IDLE_S", "serve"]

IDLE_S: Final = int(REQUEST_WITHIN_S)
"""How long a connection stays that has been answered and asks nothing more. Clients keep theirs for a while,
too, httpx for 5 s: with as many seconds here (uvicorn's own), who asks just then can find it closed under the
question, "connection reset by peer".
"""
GRACE_S: Final = 1
"""How long what is being answered may take when the server ends."""
_END_WITHIN_S = 1.8
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BACKLOG = 128
_PAGES_AT_ONCE = 8
"""Each may hold a payload of 8 MiB several times, and Python makes one after the other anyhow."""
_M_MMAP_THRESHOLD = -3  # of mallopt(3)
_M_ARENA_MAX = -8
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


def serve(
    journal: Path,
    *,
    host: str,
    port: int,
    read_only: bool,
    token: str,
    on_ready: Callable[[str], None],
    ends_process: bool = False,
) -> None:
    """Serve the console until SIGINT or SIGTERM, then return. Call it in the main thread.

    `port` 0: any that is free. `on_ready` is told the address, such as "http://127.0.0.1:8383/", once it
    answers. What still runs in a thread when it ends, such as a long query, is waited for. `ends_process`:
    but no longer than 2 s after the signal, and not at all after a second one. The process ends then, with 0.

    Raises NotFound when there is no journal, else a JournalError; UsageError when it cannot listen there.
    """
    open_reader(journal, newer=True).close()
    bound_memory()
    _give_memory_back()
    with contextlib.closing(_listening(host, port)) as listening:
        port = listening.getsockname()[1]
        app = make_app(journal, token=token, host=host, port=port, read_only=read_only)
        address = f"http://{_EVERYWHERE.get(host, f'[{host}]' if ':' in host else host)}:{port}/"
        server = _Server(app, lambda: on_ready(address), ends_process=ends_process)
        asyncio.run(server.serve(sockets=[listening]))


def _give_memory_back() -> None:
    """What is large for a moment, such as a payload, goes back to the system when it is let go: glibc would
    keep it, for each thread (600 MB after 20 downloads at once).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 256 * 1024)
        mallopt(_M_ARENA_MAX, 2)


def _listening(host: str, port: int) -> socket.socket:
    """It is bound before anything else is begun, so that who cannot have it is told at once."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"cannot listen at {host!r:.100}: {said(error)}") from None
    # Of a name that has several, IPv4: a browser tries both, a program maybe only that.
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            why = f"port {port} is in use: choose another one with --port, or --port 0 for any that is free"
        else:
            why = f"cannot listen at {host} port {port}: {error.strerror}"
        raise UsageError(why) from None
    listening.setblocking(False)
    return listening


class _Server(uvicorn.Server):
    """Uvicorn with our own ends: it would die of SIGTERM once more, behind its end."""

    def __init__(self, app: Console, on_ready: Callable[[], None], *, ends_process: bool) -> None:
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # what fails the guard logs; at the end all is cancelled, which is no error
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=IDLE_S,
            backlog=_BACKLOG,
        )
        super().__init__(config)
        self._console = app
        self._on_ready = on_ready
        self._ends_process = ends_process

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        to_thread.current_default_thread_limiter().total_tokens = _PAGES_AT_ONCE
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._console.inside.state.live.end()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            if not self._ends_process:  # else what is left to be waited for must not outlast the second one
                for number, handler in before.items():
                    signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
            if self._ends_process:
                os._exit(0)
        elif self._ends_process:
            timer = threading.Timer(_END_WITHIN_S, os._exit, (0,))
            timer.daemon = True
            timer.start()
        self.should_exit = True
