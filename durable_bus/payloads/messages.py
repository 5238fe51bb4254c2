"""The payloads and words of the bus, as plain frozen values that know nothing of XML, processes or the
journal.

The payload names and their fields come from the origin and stay (DESIGN section 3). As XML each is an element
named like its class with one child element a field; `xml` and `dataclass_xml` do that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeGuard

from durable_bus.errors import BufferError, UsageError

__all__ = [
    "NAME_CHARS_MAX",
    "RESPOND",
    "SECONDS_MAX",
    "SYSTEM_BUFFER",
    "BufferComplete",
    "BufferDispatched",
    "BufferError",
    "BufferItem",
    "BufferStart",
    "HandlerMetadata",
    "HandlerResponse",
    "Huh",
    "Result",
    "SystemError",
    "Text",
    "Xml",
    "check_name",
    "is_seconds",
]

NAME_CHARS_MAX: Final = 100
"""Longest name of a bus, listener, mailbox or buffer, in characters."""

RESPOND: Final = ""
"""The `to` of a response: back along the thread. No listener can have this name."""

SYSTEM_BUFFER: Final = "system.buffer"
"""The `to` of a BufferStart, and the sender of BufferDispatched and BufferError."""

SECONDS_MAX: Final = 10 * 365 * 24 * 3600
"""The longest time-out or wait between two attempts; what is due later cannot be written as a time."""

_NAME = re.compile(rf"[A-Za-z0-9_.-]{{1,{NAME_CHARS_MAX}}}")


def check_name(name: object, what: str) -> str:
    """The name, if a listener, mailbox or buffer may have it.

    `what` is the word for the error, such as "listener". `system.` and `buffer_` are taken by the bus itself:
    its own listeners, and the hops of items in a thread.

    Raises UsageError for another type, another character, a wrong length or a reserved beginning.
    """
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise UsageError(f"{what} name {name!r:.200} is not 1 to {NAME_CHARS_MAX} of A-Z a-z 0-9 _ . -")
    if name.startswith(("system.", "buffer_")):
        raise UsageError(f"{what} name {name!r} begins with a word reserved for the bus (system. or buffer_)")
    return name


def is_seconds(value: object) -> TypeGuard[int | float]:
    """Whether it is a number of seconds: finite, not below 0, and not true or false."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


@dataclass(frozen=True, slots=True)
class Text:
    """An item or answer that is text, whatever it looks like: `Text("<3")`. UsageError for another type."""

    text: str

    def __post_init__(self) -> None:
        """Refuse what is not str here, where the mistake is, and not later in some worker."""
        if not isinstance(self.text, str):
            raise UsageError(f"Text takes a str, not {type(self.text).__name__}")


@dataclass(frozen=True, slots=True)
class Xml:
    """An item or answer that is one XML element, given as its text. Raises UsageError for another type.

    Whether it is well formed is seen where it is used: an item fails as `malformed`, an answer as `answer`.
    """

    text: str

    def __post_init__(self) -> None:
        """Refuse what is not str here, where the mistake is, and not later in some worker."""
        if not isinstance(self.text, str):
            raise UsageError(f"Xml takes a str, not {type(self.text).__name__}")


@dataclass(frozen=True, slots=True)
class BufferStart:
    """Asks the bus to send each item to `target` and to collect the answers; a handler returns it.

    `items`: one text, an item a line, or a list of str, Text, Xml, elements or dataclasses. `collect=False`:
    no BufferComplete is sent. `return_to`: who gets it, "" for the starter. `buffer_id`: "" lets the bus
    choose one.
    """

    target: str
    items: str | Sequence[object]
    collect: bool = True
    return_to: str = ""
    buffer_id: str = ""


@dataclass(frozen=True, slots=True)
class BufferItem:
    """One item of a buffer: its position, counted from 0, and its payload as text."""

    buffer_id: str
    index: int
    payload: str


@dataclass(frozen=True)
class BufferComplete:
    """Every item of a collecting buffer has its result, or the buffer was cancelled.

    `total` and `successful` count items. `results` is the results document (`xml.results_document`). A
    handler has it inline, up to 4 MiB. A client's is made by `reading`, and read from the journal when first
    asked for, because most callers only want the counts; that is why the field has no class-level default and
    the class no slots. Equality is by the four fields, so it may read; repr leaves `results` out, so it never
    does.
    """

    buffer_id: str
    total: int
    successful: int
    results: str = field(default_factory=str, repr=False)

    @classmethod
    def reading(cls, buffer_id: str, total: int, successful: int, read: Callable[[], str]) -> BufferComplete:
        """One whose `results` is `read()`, called when asked for; what that raises is raised there."""
        complete = cls(buffer_id, total, successful)
        vars(complete).pop("results")
        vars(complete)["_read_results"] = read
        return complete

    def __getattr__(self, name: str) -> str:
        """Called by Python only for what is not there yet: `results` of one made by `reading`."""
        read = vars(self).get("_read_results")
        if name != "results" or read is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        results: str = read()
        vars(self)["results"] = results
        return results


@dataclass(frozen=True, slots=True)
class BufferDispatched:
    """The answer to a start with `collect=False`: all `total` items are on disk."""

    buffer_id: str
    total: int


@dataclass(frozen=True, slots=True)
class SystemError:  # the origin's name
    """The bus could not do what was asked. `code` is a word for programs, `message` one line for a human."""

    code: str
    message: str
    retry_allowed: bool = False


@dataclass(frozen=True, slots=True)
class Huh:
    """A handler did not understand its payload; an answer, never retried."""

    error: str


class Result(NamedTuple):
    """The final answer of one item.

    `index` counts from 0. `payload` is as the handler answered, or what a failed item holds (SystemError,
    Huh); `error` is the one line inside that, None for a success. `attempt` counts from 1. `duration_ms` is
    what the handler took, in milliseconds by the worker's monotonic clock.

    A NamedTuple and not a dataclass: readers make one a row, hundreds of thousands a second. Measured for one
    million rows: 0.4 s, and 1.7 s as a frozen slotted dataclass (which sets each field by
    object.__setattr__).
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a result
    success: bool
    payload: str
    is_xml: bool
    error: str | None
    attempt: int
    duration_ms: float

    def to_json(self) -> dict[str, Any]:
        """The line of `--format jsonl`: the fields by name, in this order."""
        return self._asdict()


@dataclass(frozen=True, slots=True)
class HandlerMetadata:
    """What a handler may know about the message it handles.

    `thread_id` is the same at every attempt: a handler's idempotency key. `from_id` sent it, `own_name` is
    the listener, `is_self_call` says that both are one. `attempt` counts from 1. `buffer_id` and `index` say
    which item it is, "" and -1 for a message.
    """

    thread_id: str
    from_id: str
    own_name: str
    is_self_call: bool
    message_id: str
    attempt: int
    buffer_id: str = ""
    index: int = -1
    _results: Callable[[], Iterator[Result]] | None = field(default=None, repr=False, compare=False)

    def results(self) -> Iterator[Result]:
        """The results of the BufferComplete this came with, in item order, streamed from the journal.

        For buffers whose document is above 4 MiB, when `BufferComplete.results` is empty; works for smaller
        ones too.

        Raises UsageError when the payload is no BufferComplete.
        """
        if self._results is None:
            raise UsageError("results() is for the handler of a BufferComplete; this message is another")
        return self._results()


@dataclass(frozen=True, slots=True)
class HandlerResponse:
    """What a handler returns to say where its payload goes: a listener's or mailbox's name, or back.

    `to` is RESPOND for a response along the thread, which is also what returning the bare payload means.
    """

    payload: object
    to: str

    @classmethod
    def respond(cls, payload: object) -> HandlerResponse:
        """A response: it goes to whom the thread is with once this listener's hop is dropped."""
        return cls(payload, RESPOND)
