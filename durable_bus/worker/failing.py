"""Why an attempt has come to nothing, as the supervisor is told, and which limits rest because of that."""

import time
import traceback
from typing import Final, NamedTuple

from durable_bus.app.bus import Listener
from durable_bus.app.options import no_limit
from durable_bus.errors import (
    RETRY_AFTER_S_MAX,
    ItemError,
    MalformedItem,
    RetryAfter,
    UnserialisableAnswer,
    WorkerSilent,
    encodable,
    one_line,
    said,
)
from durable_bus.payloads.messages import is_seconds
from durable_bus.payloads.settings import LimitSettings

__all__ = ["Described", "RestingLimits", "describe"]

_TRACEBACK_CHARS_MAX = 4096
_FRAMES_MAX: Final = 1000
"""How many frames a rest throws away: more than the supervisor can have sent before it has heard of it. A
supervisor that goes on sending knows better: in newer code the listener has no such limit, say.
"""
_OF_A_KIND = (MalformedItem, UnserialisableAnswer, WorkerSilent)
"""Errors of ours that a worker may report. A handler's own subclass is an exception like any other: its kind
may be one that the journal does not know.
"""


class Described(NamedTuple):
    """The fields of a `parts.Failed` that say why."""

    kind: str
    message: str
    traceback: str = ""
    answer: str = ""
    final: bool = False
    after_s: float | None = None
    limit: str = ""


def describe(error: BaseException, retry_on: tuple[type[BaseException], ...] | None = None) -> Described:
    """An error in handling an item, fit to be sent. Never raises.

    `retry_on`: the exceptions that are retried (`Listener.retry_on`).
    """
    if isinstance(error, ItemError) and type(error) in _OF_A_KIND:
        return Described(error.kind, said(error), "", getattr(error, "answer", ""))
    message = f"{type(error).__name__}: {said(error)}".rstrip(": ")
    try:
        text = encodable("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    except BaseException:
        text = ""  # an exception whose __str__, __cause__ or source lines raise again
    # By its ancestors, as `except` does: `isinstance` would ask the class, which may be anybody's code.
    final = retry_on is not None and not any(one in type(error).__mro__ for one in retry_on)
    return Described("exception", message, text[-_TRACEBACK_CHARS_MAX:], final=final)


class RestingLimits:
    """The limits that rest because a handler of this worker has raised RetryAfter. Until then the worker
    begins nothing that goes by them, and returns it: the supervisor had sent it before it heard of the rest.
    """

    def __init__(self, limits: dict[str, LimitSettings]) -> None:
        self._limits = limits
        self._until_s: dict[str, float] = {}
        """Monotonic."""
        self._frames_left = 0

    def failed(self, listener: Listener, error: BaseException) -> Described:
        """Describe what a handler has raised. After a RetryAfter its limit rests. Never raises."""
        if not isinstance(error, RetryAfter):
            return describe(error, listener.retry_on)
        try:
            after_s, limit = error.seconds, error.limit or ""
            is_known = not limit or (isinstance(limit, str) and limit in self._limits)
            shown = one_line(f"{limit!r:.100}")
        except BaseException:  # a subclass whose __init__ does not call ours, or whose fields are no values
            after_s, limit, is_known, shown = None, "", True, ""
        if not is_seconds(after_s) or after_s > RETRY_AFTER_S_MAX:
            wrong = "it does not say in how many seconds: its class must call RetryAfter.__init__"
        elif not is_known:
            wrong = no_limit(shown, self._limits)
        else:
            if limit:
                self._until_s[limit] = max(self._until_s.get(limit, 0.0), time.monotonic() + after_s)
                self._frames_left = _FRAMES_MAX
            return Described("retry_after", said(error), after_s=float(after_s), limit=limit)
        described = describe(error, listener.retry_on)
        return described._replace(message=f"{described.message}; {wrong}")

    def returns(self, listener: Listener) -> bool:
        """Whether a limit rests that holds for a listener. Asked before a frame is begun or gone on with: if
        so, what has not begun of it is thrown away. After too many of them the rests are forgotten.
        """
        if not self._until_s or not listener.settings.limits:
            return False
        now_s = time.monotonic()
        self._until_s = {name: until_s for name, until_s in self._until_s.items() if until_s > now_s}
        if not any(name in self._until_s for name in listener.settings.limits):
            return False
        self._frames_left -= 1
        if self._frames_left < 0:
            self._until_s.clear()
        return self._frames_left >= 0
