"""The payloads and words of the bus, as plain frozen values that know nothing of XML, processes or the
journal.

The payload names and their fields come from the origin and stay (DESIGN section 3).
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeGuard

import msgspec

from durable_bus.errors import BufferError, ItemFailed, UsageError
from durable_bus.payloads.amounts import checked_amounts
from durable_bus.payloads.forms import FORM_NAMES, JSON, PICKLE, XML

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
    "Json",
    "Pickled",
    "RawJson",
    "Result",
    "SystemError",
    "Text",
    "Xml",
    "as_said",
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
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


# What is made for many items is a Struct, not a dataclass: 0.12 us a Text instead of 0.26, 0.07 a line of
# JSON instead of 0.45, and 0.5 ms less a class at the start of every process.


class Text(msgspec.Struct, frozen=True):
    """An item or answer that is text, whatever it looks like: `Text("<3")`. Raises UsageError for another
    type than str.
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise UsageError(f"Text takes a str, not {type(self.text).__name__}")


class Xml(msgspec.Struct, frozen=True):
    """An item or answer that is one XML element, given as its text. Raises UsageError for another type than
    str.

    Whether it is well formed is seen only when it is used. If it is not, the result is a failure: of kind
    `malformed` for an item, and `answer` for an answer.
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise UsageError(f"Xml takes a str, not {type(self.text).__name__}")


class Json(msgspec.Struct, frozen=True):
    """An item or answer that is JSON, whatever type it has: `Json("a string")`, `Json(None)`, `Json([1])`.

    `Json.raw(text)` takes JSON that is written already, such as a line of a file. Whether the value can be
    JSON is seen when it is used.
    """

    value: object

    @classmethod
    def raw(cls, text: str) -> Json:
        """JSON as text. Spaces between its tokens are dropped when it is used; the order of keys, and how
        numbers are written, stay. Raises UsageError for another type than str.
        """
        if not isinstance(text, str):
            raise UsageError(f"Json.raw takes a str, not {type(text).__name__}")
        return cls(RawJson(text))


class Pickled(msgspec.Struct, frozen=True):
    """An item or answer that is a pickle, given as the base64 of its bytes. Nothing here loads it."""

    text: str


class RawJson(msgspec.Struct, frozen=True, eq=False):
    """What `Json.raw` was given."""

    text: str
    is_compact: bool = False
    """Somebody has checked it and made it compact: it is not looked at again. The value is the same."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RawJson) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"RawJson(text={self.text!r})"


def as_said(text: str, form: int, *, is_compact: bool) -> Text | Xml | Json | Pickled:
    """The value that says a payload's form outright, for who gives it away again. `is_compact`: if it is
    JSON, it is out of the journal, where it is compact.
    """
    if form == JSON:
        return Json(RawJson(text, is_compact))
    return Pickled(text) if form == PICKLE else Xml(text) if form == XML else Text(text)


@dataclass(frozen=True, slots=True)
class BufferStart:
    """Starts a buffer from inside a handler: `return HandlerResponse(BufferStart(...), to="system.buffer")`.

    - `target`: the listener that gets each item.
    - `items`: one text with an item a line, or a list of str, Text, Xml, elements or dataclasses.
    - `collect`: False sends no BufferComplete. The results are in the journal all the same.
    - `return_to`: the listener or mailbox that gets BufferComplete. "" is the listener that started it.
    - `buffer_id`: "" lets the bus choose one.

    The buffer and what the handler did are in the journal in one transaction. A start that is refused comes
    back to the handler's listener as BufferError.
    """

    target: str
    items: str | Sequence[object]
    collect: bool = True
    return_to: str = ""
    buffer_id: str = ""


@dataclass(frozen=True, slots=True)
class BufferItem:
    """One item of a buffer: its index, counted from 0, and its payload as text."""

    buffer_id: str
    index: int
    payload: str


@dataclass(frozen=True)
class BufferComplete:
    """Says that every item of a buffer has its result, or that the buffer was cancelled.

    `total` and `successful` count items. `results` is the results document: XML with one `<item>` for each
    index. A handler has it up to 4 MiB; above, it is empty, and `HandlerMetadata.results` streams. A client
    reads it from the journal when it first asks for it; that raises NotFound when the results were pruned.
    """

    buffer_id: str
    total: int
    successful: int
    results: str = field(default_factory=str, repr=False)

    @classmethod
    def reading(cls, buffer_id: str, total: int, successful: int, read: Callable[[], str]) -> BufferComplete:
        """One whose `results` is `read()`, called when it is first asked for: most callers only want the
        counts. That is why the field has no default in the class, and the class no slots. repr leaves
        `results` out, and so never reads.
        """
        complete = cls(buffer_id, total, successful)
        vars(complete).pop("results")
        vars(complete)["_read_results"] = read
        return complete

    if not TYPE_CHECKING:  # a type checker would take every misspelt attribute for a str

        def __getattr__(self, name: str) -> str:
            """Called by Python only for what is not there yet: `results` of one made by `reading`."""
            read = vars(self).get("_read_results")
            if name != "results" or read is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            vars(self)["results"] = read()
            return vars(self)["results"]


@dataclass(frozen=True, slots=True)
class BufferDispatched:
    """The answer to a start with `collect=False`: all `total` items are on disk."""

    buffer_id: str
    total: int


@dataclass(frozen=True, slots=True)
class SystemError:  # the origin's name
    """Says that the bus could not do what was asked. It is the payload of a failed item.

    `code` is a word for programs: the kind of the failure, such as `timeout`. `message` is one line for
    humans. A handler may return one: it is an answer that counts as a failure, and is never retried.
    """

    code: str
    message: str
    retry_allowed: bool = False


@dataclass(frozen=True, slots=True)
class Huh:
    """Says that a handler did not understand its payload, in `error`. A handler returns it: it is an answer
    that counts as a failure, and is never retried.
    """

    error: str


class Result(NamedTuple):
    """The final answer of one item.

    - `index`: the item's, counted from 0.
    - `payload`: what the handler answered, character for character. A failed item holds a SystemError or Huh
      as XML.
    - `is_xml`: whether the payload is XML; else it is text.
    - `error`: why it failed, one line; None for a success.
    - `attempt`: the one that gave this answer, counted from 1.
    - `duration_ms`: how long the handler took, in milliseconds.
    - `form`: the payload's: "text", "xml", "json" or "pickle".
    - `item`: the item's payload, as `value` gives it; None unless it was asked for (`with_items=True`).
    """

    # Not a dataclass: readers make one a row, hundreds of thousands a second. One million took 0.4 s, and
    # 1.7 s as a frozen slotted dataclass, which sets each field by object.__setattr__.
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a result
    success: bool
    payload: str
    is_xml: bool
    error: str | None
    attempt: int
    duration_ms: float
    form: str = "text"
    item: Any = None

    @property
    def value(self) -> Any:
        """What was answered: a str, an element, a plain JSON value, or the object of a pickle.

        A pickle is code: ask only where you trust whoever could write to the journal. Raises ItemFailed for a
        failure.
        """
        if not self.success:
            kind, _, message = (self.error or "").partition(": ")
            raise ItemFailed(self.index, kind, message)
        # By name: lxml is for those who read XML, and takes 20 ms.
        reading: Any = importlib.import_module("durable_bus.payloads.reading")
        return reading.plain_value(self.payload, FORM_NAMES.index(self.form))

    def to_json(self) -> dict[str, Any]:
        """The fields by name, in this order, as plain JSON values, as `--format jsonl` writes them: `payload`
        is a text, or the value itself where the form is JSON. `item` is there only if there is one; one that
        is no JSON value is its text, or the repr of a pickled object.
        """
        fields = self._asdict()
        if self.item is None:
            del fields["item"]
        if self.form == "json" or self.item is not None:
            reading: Any = importlib.import_module("durable_bus.payloads.reading")
            if self.form == "json":
                fields["payload"] = reading.plain_value(self.payload, FORM_NAMES.index("json"))
            if self.item is not None:
                fields["item"] = reading.json_value(self.item)
        return fields


@dataclass(frozen=True, slots=True)
class HandlerMetadata:
    """What a handler may know about the item or message that it handles.

    - `thread_id`: the same at every attempt, so it is the handler's idempotency key.
    - `from_id`: who sent it. `own_name`: this listener. `is_self_call`: whether both are the same.
    - `message_id`: the message's.
    - `attempt`: which attempt this is, counted from 1.
    - `buffer_id` and `index`: which item it is; "" and -1 for a message.
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
    _spend: Callable[[dict[str, float]], None] | None = field(default=None, repr=False, compare=False)

    def results(self) -> Iterator[Result]:
        """The results of the buffer whose BufferComplete is handled, in item order, read from the journal in
        pages.

        Above 4 MiB, where `BufferComplete.results` is empty, this is the way to read them. Raises UsageError
        when the payload is no BufferComplete.
        """
        if self._results is None:
            raise UsageError("results() is for the handler of a BufferComplete; this message is another")
        return self._results()

    def spend(self, /, **amounts: float) -> None:
        """Say what this attempt spends, by unit: `metadata.spend(usd=0.002, tokens=812)`. Each call adds to
        what was said before.

        It is told at once, and journaled also of an attempt that fails later (view `spending`). A buffer's
        budget counts it. Any thread of the handler may call it. With a metadata that no worker has made, as
        in a test, it only checks the amounts.

        Raises UsageError for no amount, for one that is no finite number of at least 0, for a unit that is no
        Python identifier of at most 50 characters, and when the attempt has ended or is another process's.
        """
        checked = checked_amounts(amounts, "spend()")
        if self._spend is not None:
            self._spend(checked)


@dataclass(frozen=True, slots=True)
class HandlerResponse:
    """What a handler returns to say where its payload goes.

    `to` is the name of a listener or mailbox, or "system.buffer" for a BufferStart. An item whose handler
    forwards it waits, in the state `forwarded`, for a response. To answer, return the bare payload, or
    `HandlerResponse.respond(payload)`. A name that cannot be sent to makes a failed result.
    """

    payload: object
    to: str

    @classmethod
    def respond(cls, payload: object) -> HandlerResponse:
        """An answer: it goes back along the thread, to whoever sent this listener the item or message."""
        return cls(payload, RESPOND)
