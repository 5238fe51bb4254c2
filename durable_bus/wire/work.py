"""Every frame between a worker and the supervisor, as a type: who says it to whom, when, and what is on disk
by then. `protocol` has those of clients, and says what holds for all.
"""

from typing import Annotated, Literal

import msgspec

from durable_bus.payloads.settings import LimitSettings, ListenerSettings, ValueForms
from durable_bus.wire.parts import Count, Failed, Form, Forms, Frame, Handled, Segment, Spent, Where

__all__ = [
    "Answers",
    "AppNotImportable",
    "Lost",
    "Places",
    "Ready",
    "Report",
    "Work",
    "WorkItems",
    "WorkMessage",
]

# ---- supervisor → worker


class WorkItems(Frame, tag="items"):
    """A range of items to run, payloads in the body. Sent after the commit that journals the dispatch."""

    dispatch: int
    """Its `dispatch_id`, by which answers name it."""
    buffer: int
    """The buffer's `buffer_seq`."""
    buffer_id: str
    thread: str
    """The buffer's thread: that of item i is `thread/i`."""
    listener: str
    first: int
    """The index of the first item."""
    attempt: int
    ordinal: int
    """The first item's ordinal (see `slot`); the others follow."""
    forms: Forms
    traceparent: str | None = None
    """The span that the buffer was started in. A worker passes over one that is none."""


class WorkMessage(Frame, tag="message"):
    """A message to handle. Sent after the commit that journals its delivery. The body is its payload."""

    dispatch: int
    """By which its outcome names it. Below 0: no dispatch of items has this number."""
    message_id: str
    thread: str
    from_id: str
    listener: str
    attempt: int
    ordinal: int
    form: Form
    completes: int | None = None
    """The `buffer_seq` of the buffer whose BufferComplete it is: the worker reads that one's results."""


Work = WorkItems | WorkMessage


# ---- worker → supervisor


class Ready(Frame, tag="ready"):
    """The app is imported, and its listeners are these. Sent once, as a worker's first frame. Nothing is on
    disk by then; the commit that takes it in journals the table with the run.
    """

    listeners: dict[str, ListenerSettings]
    forms: ValueForms
    limits: dict[str, LimitSettings] = msgspec.field(default_factory=dict)
    places: Count = 0
    """Of an engine: how many dispatches it may hold at once. 0: it is a worker, and runs what it gets."""
    traces: bool = False
    """It may have spans to export when its pipe ends, and wants a moment for that before it is killed."""


class AppNotImportable(Frame, tag="import_error"):
    """The app cannot be imported, or the engine cannot be reached, and the worker ends. Sent instead of
    `Ready`.
    """

    error: str
    """One line for a user."""
    traceback: str = ""


class Answers(Frame, tag="answers"):
    """What has come of items and messages. Sent at the end of a dispatch, and at the latest 100 ms after the
    first of it is there. Of it nothing is on disk: if the worker or the supervisor dies now, the items run
    again. The first answer to an item that is committed is its result, whatever comes later.
    """

    segments: list[Segment] = msgspec.field(default_factory=list)
    failed: list[Failed] = msgspec.field(default_factory=list)
    outcomes: list[Handled] = msgspec.field(default_factory=list)
    spent: list[Spent] = msgspec.field(default_factory=list)
    discarded: tuple[Count, Count] | None = None
    """Ordinals, from the first up to the second, that the worker may not start, or will not because a limit
    rests, and has thrown away.
    """
    where: Where = ""
    """Where it ran, when not in this process's own worker: all that the frame tells of ran there."""


class Lost(Frame, tag="lost"):
    """Dispatches of which an engine brings nothing back. Nothing is on disk of that; the commit that takes it
    in gives their items back, and charges the one of a single item that was alone in the engine.
    """

    dispatches: list[int]
    how: Literal["lost", "late", "returned"]
    """Their items may have ended the process that ran them, have run past their time-out, or surely have not
    done anything wrong: the engine is gone, or its worker has other code.
    """
    why: str
    """One line for a user."""


class Places(Frame, tag="places"):
    """The engine has more workers now, or fewer, and may hold so many dispatches. Nothing is on disk."""

    places: Annotated[int, msgspec.Meta(ge=1, le=1 << 32)]


Report = Ready | AppNotImportable | Answers | Lost | Places
