"""Every frame that crosses a border between processes, as a type: who says it to whom, when, and what is on
disk by then.

A frame is a header, one of these types as JSON, and bodies of payloads (`framing`). Headers are validated
while they are decoded. There is a decoder for each direction: `decode_work` for what a worker reads,
`decode_report` for what the supervisor reads of a worker, `decode_request` of a client, and `decode_answer`
for what a client reads. A frame that fits none of its direction's types is refused with msgspec's own
message.

`README.md` shows three conversations in pictures: a start, an item, a death.
"""

from typing import Any

import msgspec

from durable_bus.payloads.outcomes import Outcome
from durable_bus.payloads.settings import ListenerSettings

__all__: list[str] = [
    "Answers",
    "AppNotImportable",
    "Failed",
    "Handled",
    "Ready",
    "Report",
    "Segment",
    "Work",
    "WorkItems",
    "WorkMessage",
    "decode_report",
    "decode_work",
]


class _Frame(
    msgspec.Struct, tag_field="k", forbid_unknown_fields=True, omit_defaults=True, frozen=True, gc=False
):
    """What all headers have in common. `k` is the tag: the frame's name."""


# ---- supervisor → worker


class WorkItems(_Frame, tag="items", frozen=True):
    """A range of a buffer's items to run. Sent after the commit that journals the dispatch. The body is their
    payloads.
    """

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
    forms: int | list[int]
    """Of all items, or of each: 1 for XML, 0 for text."""


class WorkMessage(_Frame, tag="message", frozen=True):
    """A message to handle. Sent after the commit that journals its delivery. The body is its payload."""

    dispatch: int
    """By which its outcome names it. Below 0: no dispatch of items has this number."""
    message_id: str
    thread: str
    from_id: str
    listener: str
    attempt: int
    ordinal: int
    is_xml: bool
    completes: int | None = None
    """The `buffer_seq` of the buffer whose BufferComplete it is: the worker reads that one's results."""


Work = WorkItems | WorkMessage
decode_work = msgspec.json.Decoder(Work).decode


# ---- worker → supervisor


class Ready(_Frame, tag="ready", frozen=True):
    """The app is imported, and its listeners are these. Sent once, as a worker's first frame. Nothing is on
    disk by then; the commit that takes it in journals the table with the run.
    """

    listeners: dict[str, ListenerSettings]


class AppNotImportable(_Frame, tag="import_error", frozen=True):
    """The app cannot be imported, and the worker ends. Sent instead of `Ready`."""

    error: str
    """One line for a user."""
    traceback: str = ""


class Segment(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """Answers to a contiguous range of items of one dispatch, which are alike in `success` and `is_xml`. A
    body of the frame is their payloads.
    """

    dispatch: int
    buffer: int
    first: int
    """The index of the first one's item."""
    count: int
    success: bool
    is_xml: bool
    attempt: int
    total_us: int
    durations: str
    """See `formats.packed`."""


class Failed(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """An attempt at an item or a message that came to nothing. No body."""

    dispatch: int
    index: int
    """The item's; 0 for a message."""
    kind: str
    """As in the view `failures`: exception, malformed, answer, or timeout."""
    message: str
    traceback: str
    durations: str


class Handled(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """What the handling of a message led to, or of an item whose handler passed its work on. A body of the
    frame, after those of the segments, belongs to it.
    """

    dispatch: int
    index: int
    outcome: Outcome


class Answers(_Frame, tag="answers", frozen=True):
    """What has come of items and messages. Sent at the end of a dispatch, and at the latest 100 ms after the
    first of it is there. Of it nothing is on disk: if the worker or the supervisor dies now, the items run
    again. The first answer to an item that is committed is its result, whatever comes later.
    """

    segments: list[Segment] = []
    failed: list[Failed] = []
    outcomes: list[Handled] = []
    discarded: tuple[int, int] | None = None
    """Ordinals, from the first up to the second, that the worker was told not to start and has thrown away:
    nothing of them is left in its pipe.
    """


Report = Ready | AppNotImportable | Answers
decode_report = msgspec.json.Decoder(Report).decode


# ---- client → supervisor


# ---- supervisor → client

_ = Any
