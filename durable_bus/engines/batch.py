"""What an engine's worker runs: one batch, from the frame that the supervisor has sent to those it gets back.

It is called by name in whatever process the engine has, maybe in a thread of it beside other batches, maybe
on another machine. What goes in and comes out is text frames and short texts, no object of a user.
"""

import dataclasses
import hashlib
import inspect
import json
import os
import socket
import sys
import threading

import msgspec

from durable_bus import __version__
from durable_bus.app.bus import Bus
from durable_bus.app.finding import load_app
from durable_bus.errors import DurableBusError, said
from durable_bus.payloads.settings import AppSpec
from durable_bus.wire.decoding import decode_work
from durable_bus.wire.framing import FrameReader, encode
from durable_bus.wire.parts import WHERE_CHARS_MAX
from durable_bus.wire.slot import CURRENT, LIMIT, ORDINAL_MAX
from durable_bus.wire.work import Answers
from durable_bus.worker.failing import RestingLimits
from durable_bus.worker.handling import MessageHandling
from durable_bus.worker.replies import Replies
from durable_bus.worker.sync_runner import SyncRunner

__all__ = ["Reply", "code_of", "described_app", "greet", "run_batch"]

Reply = tuple[bytes, str]
"""Frames of answers; and why the batch was refused, "" when it was not. A refused one has begun nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class _App:
    bus: Bus
    code: str


_apps: dict[bytes, _App] = {}
"""Those that this process has imported, by their description. It keeps them: Python imports a module once."""
_importing = threading.Lock()


class _Collected(Replies):
    """Answers that wait for the end of their batch."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.frames: list[bytes] = []

    def send(self, header: msgspec.Struct, *bodies: bytes) -> None:
        if isinstance(header, Answers):
            header = msgspec.structs.replace(header, where=where())
        self.frames.append(encode(header, *bodies))


def where() -> str:
    """This process, for people: its machine and its pid."""
    return f"{socket.gethostname()}:{os.getpid()}"[-WHERE_CHARS_MAX:]


def code_of(bus: Bus) -> str:
    """Which code a bus has: the version of this package, whose frames no other one reads, and a digest of the
    files that its handlers stand in. To be asked right after the import, before anybody can have written to
    them.
    """
    files: dict[str, str] = {}
    for name, listener in sorted(bus.listeners.items()):
        path = getattr(getattr(inspect.unwrap(listener.handler), "__code__", None), "co_filename", "")
        try:
            with open(path, "rb") as file:
                files[name] = hashlib.sha256(file.read()).hexdigest()
        except OSError:  # a builtin, or a module in an archive: nobody can say
            files[name] = ""
    return f"{__version__}-{hashlib.sha256(repr(files).encode()).hexdigest()[:16]}"


def described_app(app: AppSpec) -> bytes:
    """As JSON in ASCII: a folder or an argument need not be UTF-8."""
    return json.dumps(msgspec.to_builtins(app)).encode()


def _imported(described: bytes) -> _App:
    """The app. Raises BusNotImportable.

    Its folders come first, and those of this process stay: on another machine the app may stand elsewhere.
    """
    with _importing:
        if described not in _apps:
            app = msgspec.convert(json.loads(described), AppSpec)
            folders = [folder for folder in app.sys_path if os.path.isdir(folder)]
            path = list(dict.fromkeys([*folders, *sys.path]))
            bus = load_app(msgspec.structs.replace(app, sys_path=path))
            _apps[described] = _App(bus, code_of(bus))
        return _apps[described]


def _refusal(described: bytes, code: str) -> str:
    """Why this process does not run the app; "" when it does."""
    try:
        app = _imported(described)
    except DurableBusError as error:
        return f"{where()}: {said(error)}"
    if app.code != code:
        return f"{where()} has other code of the app ({app.code}, not {code}): restart the engine's workers"
    return ""


def greet(described: bytes, code: str) -> str:
    """Import the app; why this process cannot run it, "" when it can."""
    return _refusal(described, code)


def run_batch(described: bytes, code: str, journal: str, data: bytes) -> Reply:
    """Run a range of items.

    `described`: as `described_app` makes it. `code`: which code the app must have (`code_of`). `journal`: its
    path on the supervisor's machine. `data`: a frame of `WorkItems`.
    """
    refusal = _refusal(described, code)
    if refusal:
        return b"", refusal
    bus = _imported(described).bus
    (frame,) = FrameReader(decode_work).feed(data)
    words: memoryview[int] = memoryview(bytearray(8 * (CURRENT + 1))).cast("q")
    words[LIMIT] = ORDINAL_MAX
    replies, messages, resting = _Collected(), MessageHandling(journal), RestingLimits(bus.limits)
    if bus.listeners[frame.header.listener].settings.is_async:
        from durable_bus.worker.async_runner import AsyncRunner

        AsyncRunner(bus, words, replies, messages, resting).run(frame)
    else:
        SyncRunner(bus, words, replies, messages, resting).run(frame)
    return b"".join(replies.frames), ""
