"""What frames are made of: values that several fields of them hold (`protocol`)."""

from typing import Annotated, NamedTuple

import msgspec

from durable_bus.errors import RETRY_AFTER_S_MAX
from durable_bus.payloads.outcomes import Form, Forms, Outcome, TraceParent

__all__ = [
    "DEADLINE_S_MAX",
    "EXIT_REASONS",
    "LAST_S",
    "WHERE_CHARS_MAX",
    "Count",
    "Failed",
    "Figures",
    "Form",
    "Forms",
    "Frame",
    "Handled",
    "Misfit",
    "Place",
    "Segment",
    "Spent",
    "Terms",
    "TraceParent",
    "Where",
    "WorkerStatus",
]

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""What SQLite's integers can count."""
Index = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
"""An item's place in its buffer; 0 for a message."""
DispatchId = Annotated[int, msgspec.Meta(ge=1 - (1 << 63), le=(1 << 63) - 1)]
"""What a worker was given: a dispatch of items, or below 0 a message."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=RETRY_AFTER_S_MAX)]
"""Until something comes back by RetryAfter."""
LAST_S = 253_402_300_799
"""The end of the year 9999, since the epoch: no later time has a name in the journal's views."""
DEADLINE_S_MAX = 100 * 366 * 86_400
TimeMs = Annotated[int, msgspec.Meta(ge=0, le=LAST_S * 1000 + 999)]
"""ms since the epoch."""
DeadlineMs = Annotated[int, msgspec.Meta(ge=0, le=DEADLINE_S_MAX * 1000)]
"""How long something may take, up to 100 years: added to any time of day, SQLite can count it."""
Place = Annotated[list[Count], msgspec.Meta(min_length=1, max_length=2)]
"""How far a `prune` has come. Only the supervisor looks into it."""


WHERE_CHARS_MAX = 300
Where = Annotated[str, msgspec.Meta(max_length=WHERE_CHARS_MAX)]
"""What an engine calls itself or one of its workers. Whoever sends it shortens it."""


class Frame(msgspec.Struct, tag_field="k", forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What all headers have in common. `k` is the tag: the frame's name."""


class Segment(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """Answers to neighbouring items of a dispatch, alike in `success` and `form`; payloads: a body."""

    dispatch: int
    buffer: int
    first: int
    """The index of the first one's item."""
    count: int
    success: bool
    form: Form
    attempt: int
    total_us: int
    durations: str
    """See `formats.packed`."""


class Failed(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """An attempt at an item or a message that came to nothing. No body."""

    dispatch: DispatchId
    index: Index
    """The item's; 0 for a message."""
    kind: Annotated[str, msgspec.Meta(pattern="^(exception|malformed|answer|timeout|retry_after)$")]
    """As in the view `failures`."""
    message: str
    traceback: str
    durations: str
    answer: str = ""
    """Where the answer could not be written: its repr."""
    final: bool = False
    """Its listener does not retry this exception (`retry_on`)."""
    after_s: Seconds | None = None
    """It is to come back in so many seconds, by RetryAfter: no attempt is charged."""
    limit: str = ""
    """The limit that is to rest until then; "": none."""


class Spent(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """What the handling of an item or a message has spent. No body."""

    dispatch: DispatchId
    index: Index
    """The item's; 0 for a message."""
    number: Count
    """Counts what this attempt spends, from 0 on."""
    amounts: dict[str, Annotated[float, msgspec.Meta(ge=0)]]
    """How much, by unit."""


class Terms(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True, gc=False):
    """Under which terms a buffer runs. They are no part of its identity: those of its first start hold."""

    priority: Annotated[int, msgspec.Meta(ge=-10, le=10)] = 0
    not_before_ms: TimeMs | None = None
    """Nothing of it starts before, ms since the epoch."""
    deadline_ms: DeadlineMs | None = None
    """So long after its start it ends as it is."""
    enough: Annotated[int, msgspec.Meta(ge=1, le=1 << 32)] | None = None
    """It ends when so many items have succeeded."""
    max_failures: Annotated[int, msgspec.Meta(ge=1, le=1 << 32)] | None = None
    """It ends when so many items have failed."""
    budget: dict[str, float] = {}
    """It is paused when so much is spent, by unit."""


class Handled(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """What the handling of a message led to, or of an item whose handler passed its work on. A body of the
    frame, after those of the segments, belongs to it.
    """

    dispatch: int
    index: int
    outcome: Outcome


class WorkerStatus(msgspec.Struct, gc=False):
    """A worker, and for how many seconds it has run what: an item or a message; None: it runs nothing."""

    pid: int
    state: str
    old_code: bool
    in_hand: int
    listener: str | None = None
    seconds: float | None = None
    buffer_id: str | None = None
    item_index: int | None = None
    message_id: str | None = None
    engine: str | None = None
    """It is the process of this engine, which runs what is in hand side by side."""


EXIT_REASONS = ("left", "exited", "killed", "timeout", "unresponsive")
"""How a worker ends: as it was told to, with another exit code, by a signal, killed for running past a
time-out, or killed for not beginning, or not understandably answering, what it was given.
"""


class Figures(msgspec.Struct, gc=False):
    """What a supervisor has counted since its start, and what is not in the journal."""

    commit_bounds_us: list[int]
    commits: list[int]
    """How many commits took up to each bound, and longer than the one before; at last, those beyond all."""
    commits_us: int
    """How long all of them took."""
    exits: dict[str, int]
    """How many workers have ended, by `EXIT_REASONS`."""


class Misfit(NamedTuple):
    """A header that is a JSON object and no request: why, and what else it says where that is text."""

    message: str
    kind: str | None
    request: str | None
    version: str | None
