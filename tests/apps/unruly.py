"""Handlers that do to their process what nobody should."""

import contextlib
import ctypes
import fcntl
import os
import signal
import stat
import sys
import time
from types import FrameType

from apps.plain import gate, log_run
from durable_bus import Bus, HandlerMetadata, Huh, Xml
from durable_bus.errors import ItemError

bus = Bus("unruly")
bus.listener("gate")(gate)


class UnsayableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class DeadlyToAskError(Exception):
    def __str__(self) -> str:
        raise self.args[0]


class OwnKindError(ItemError):
    """Like an error of ours, of a kind that the journal does not know."""

    kind = "own"


def misbehave(what: str) -> object:
    raise_something(what)
    harm_the_process(what)
    match what:
        case "recurse for ever":
            return misbehave(what)
        case "print a lot":
            for _ in range(20_000):
                sys.stdout.write("x" * 100 + "\n")
            sys.stdout.flush()
            raise OSError("that was a lot")
        case "answer too much":
            return "x" * (8 * 1024 * 1024 + 1)
        case "answer what has no form":
            return {"a": {1}}
        case "answer NUL":
            return "a\0b"
        case "answer half a surrogate pair":
            return "\ud800"
        case "answer broken XML":
            return Xml("<a>")
        case "answer a DOCTYPE":
            return Xml("<!DOCTYPE a><a/>")
        case "answer two elements":
            return Xml("<a/><b/>")
    return what


def raise_something(what: str) -> None:
    match what:
        case "raise":
            raise ValueError("no good\nat all")
        case "raise something that cannot say what it is":
            raise UnsayableError
        case "raise something that exits when asked what it is":
            raise DeadlyToAskError(SystemExit(3))
        case "raise an error of a kind of its own":
            raise OwnKindError("unheard of")
        case "raise a chain":
            try:
                raise KeyError("inner")
            except KeyError as inner:
                raise RuntimeError("outer") from inner
        case "raise half a surrogate pair":
            raise ValueError("bad name \udcff")
        case "raise because of half a surrogate pair":
            raise OSError("it cannot be read") from ValueError("\udcff")
        case "SystemExit":
            sys.exit(3)
        case "KeyboardInterrupt":
            raise KeyboardInterrupt
        case "GeneratorExit":
            raise GeneratorExit


def harm_the_process(what: str) -> None:
    match what:
        case "_exit":
            os._exit(7)
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "SIGTERM itself":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        case "close the standard files":
            for fd in (0, 1, 2):
                os.close(fd)
            raise OSError("they are closed")
        case "block every signal":
            signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
            raise OSError("they are blocked")
        case "fork a child that lives on":
            if os.fork() == 0:
                time.sleep(0.5)
                os._exit(0)
            raise OSError("it has forked")
        case "fork and return in both":
            log_run(os.fork())
        case "leave a process behind and die":
            if os.fork() == 0:
                log_run(-1)
                time.sleep(600)
                os._exit(0)
            os._exit(9)


@bus.listener("misbehave", timeout=20)
def misbehave_listener(what: str) -> object:
    return misbehave(what)


@bus.listener("tardy", timeout=0.5)
def tardy(text: str) -> str:
    """Blocks every signal it can, and never returns when told to be late."""
    if text == "late":
        log_run(0)
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        while True:
            time.sleep(60)
    return text


@bus.listener("blocked-for-ever")
def blocked_for_ever(text: str) -> str:
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    while True:
        time.sleep(60)


@bus.listener("stops-after-it")
def stops_after_it(text: str) -> str:
    """The worker is stopped when it has reported this item, before it comes to what it holds besides."""

    def stop(frame: FrameType, event: str, arg: object) -> None:
        if (event, frame.f_code.co_name) == ("call", "idle"):
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGSTOP)

    if text == "yes":
        time.sleep(1)  # the supervisor has looked by then, and seen that there is no time-out
        sys.setprofile(stop)
    return text


@bus.listener("noisy", timeout=0.5)
def noisy(text: str) -> str:
    """Prints more than any pipe holds."""
    if text == "print":
        sys.stdout.write("x" * 3_000_000)
        sys.stdout.flush()
    return text


@bus.listener("third-time", attempts=3, backoff=0.05)
def third_time(text: str, metadata: HandlerMetadata) -> str:
    if metadata.attempt < 3:
        raise ValueError(f"attempt {metadata.attempt}")
    return f"{text} at attempt {metadata.attempt}"


@bus.listener("gate-or-raise", attempts=2)
def gate_or_raise(text: str, metadata: HandlerMetadata) -> str:
    """What raises at its first attempt never ends its second."""
    if text == "raise" and metadata.attempt == 1:
        raise ValueError(text)
    return gate("/nowhere" if text == "raise" else text, metadata)


@bus.listener("slow-backoff", attempts=3, backoff=1.0)
def slow_backoff(text: str, metadata: HandlerMetadata) -> str:
    if metadata.attempt == 1:
        raise ValueError(text)
    return text


@bus.listener("much-later", attempts=3, backoff=3600)
def much_later(text: str) -> str:
    raise ValueError(text)


@bus.listener("never", attempts=3)
def never(text: str) -> str:
    raise ValueError(text)


@bus.listener("late-then-good", timeout=0.3, attempts=2)
def late_then_good(text: str, metadata: HandlerMetadata) -> str:
    if metadata.attempt == 1 and text == "late":
        time.sleep(60)
    return text


@bus.listener("puzzled", attempts=3)
def puzzled(text: str) -> Huh:
    return Huh(text)


@bus.listener("broken-answer", attempts=3)
def broken_answer(text: str) -> object:
    return object()


@bus.listener("double-close")
def double_close(text: str) -> str:
    """A library that closes a descriptor twice: the second time it is the worker's way to the supervisor."""
    if text == "close":
        for fd in ways_out():
            os.close(fd)
            os.open(os.devnull, os.O_WRONLY)  # and its number is somebody else's
    return text


def ways_out() -> list[int]:
    """The pipes that this process writes to."""
    found = []
    for fd in range(3, 50):
        with contextlib.suppress(OSError):
            mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
            if stat.S_ISFIFO(os.fstat(fd).st_mode) and mode == os.O_WRONLY:
                found.append(fd)
    return found


@bus.listener("speaks-for-its-worker")
def speaks_for_its_worker(header: str) -> str:
    """Writes a frame of its own to the supervisor."""
    if header != "good":
        part = len(header.encode()).to_bytes(4, "big") + header.encode()
        for fd in ways_out():
            os.write(fd, len(part).to_bytes(4, "big") + part)
        time.sleep(60)
    return header
