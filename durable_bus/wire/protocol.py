"""Every frame that crosses a border between processes, as a type: who says it to whom, when, and what is on
disk by then. Those of workers are in `work`, as a worker needs no others.

A frame is a header, one of these types as JSON, and bodies of payloads (`framing`). Headers are validated
while they are decoded. There is a decoder for each direction: `decode_work` for what a worker reads,
`decode_report` for what the supervisor reads of a worker, `decode_request` of a client, and `decode_answer`
for what a client reads (`decoding`). A frame that fits none of its direction's types is refused with
msgspec's own message.

`README.md` shows three conversations in pictures: a start, an item, a death.
"""

from typing import Annotated, TypeAlias

import msgspec

from durable_bus.payloads.settings import ListenerSettings, ValueForms
from durable_bus.wire.parts import (
    Count,
    Figures,
    Form,
    Forms,
    Frame,
    Misfit,
    Place,
    Terms,
    TraceParent,
    WorkerStatus,
)

# ---- client → supervisor


class Request(Frame):
    """What a client asks, under an id that it has made. It may ask again under the same id, when it has lost
    its connection before the answer came: what was done then is not done twice.
    """

    request: str


class Hello(Request, tag="hello", kw_only=True):
    """The first frame of a connection. `welcome` answers it. On disk by then: the mailbox of `name`.

    `journal`: the file that the supervisor must serve, as device and inode (`socket_file.journal_file`).
    `needs_app`: it is answered only when a worker has imported the app, and refused when none can.
    """

    version: str
    name: str | None = None
    needs_app: bool = True
    journal: list[Count] | None = None


class Start(Request, tag="start"):
    """A buffer whose items follow in chunks. `receiving` answers it; on disk by then: that it is receiving.

    `return_to`: "" stands for who starts it. `retry_of`: the ended buffer whose unsuccessful items these are.
    `stream`: it opens with its first chunk; one that is there and not sealed is gone on with. `again`: it was
    answered before, over a connection that was lost; if somebody else has gone on with the stream, refuse.
    `traceparent`: the span that sends it; it is no part of its identity, that of its first start holds.
    """

    buffer_id: str
    target: str
    collect: bool
    return_to: str = ""
    retry_of: str | None = None
    stream: bool = False
    again: bool = False
    terms: Terms | None = None
    traceparent: TraceParent | None = None


class Chunk(Request, tag="chunk"):
    """`count` items of what `start` began, in one body. `received` answers it: on disk; a stream's go out."""

    number: Count
    count: Count
    forms: Forms


class Open(Request, tag="open"):
    """All items were sent. `opened` answers it; on disk by then: that the buffer is open, a stream sealed.
    `digest`: of all items, `payloads.items.ItemsDigest`; None where a stream's came from several clients.
    """

    total: Count
    digest: str | None


class Submit(Start, tag="submit", kw_only=True):
    """`start`, the only `chunk` and `open` in one frame. `opened` answers it; on disk by then: all of it."""

    count: Count
    forms: Forms
    digest: str


class Abandon(Request, tag="abandon"):
    """The start of this id is given up. No answer; nothing of the buffer stays."""


class OfBuffer(Request):
    """What is asked about a buffer that exists."""

    buffer_id: str


class Watch(OfBuffer, tag="watch"):
    """Tell me when this buffer has ended. `watching` answers it, and `ended` comes when it has."""


class Cancel(OfBuffer, tag="cancel"):
    """End a buffer as it is. `controlled` answers it; on disk by then: its end, and its BufferComplete."""


class Pause(OfBuffer, tag="pause"):
    """Hand out nothing more of a buffer. `controlled` answers it; on disk by then: that it is paused."""


class Resume(OfBuffer, tag="resume"):
    """Go on with a paused buffer. `controlled` answers it; on disk by then: that it is not paused.

    `budget`: how much more it may spend, by unit; of a unit that is not said, as much as it might at first.
    """

    budget: dict[str, float] = msgspec.field(default_factory=dict)


class SetLimit(Request, tag="set_limit"):
    """Change a limit while it runs, until it is reset. `limit_set` answers it; on disk by then: the change.

    What is None stays as it is. `reset`: go by what the app says again.
    """

    name: str
    rate: str | None = None
    running: Annotated[int, msgspec.Meta(ge=1, le=1 << 32)] | None = None
    reset: bool = False


class Prune(Request, tag="prune"):
    """Mark buffers and drop conversations that ended before a time, ms since the epoch: a page of them.
    `pruned` answers it; on disk by then: what it says.

    `after`: where the last answer says to go on.
    """

    before_ms: Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
    after: Place | None = None


class AskForms(Request, tag="forms"):
    """How does the app write values? `app_forms` answers it once a worker has imported the app."""


class AskStatus(Request, tag="status"):
    """How is the supervisor? `status` answers it. It may come before a hello, and writes nothing."""

    journal: list[Count] | None = None


class Send(Request, tag="send"):
    """A message on a new thread. `sent` answers it; on disk by then: the message."""

    to: str
    payload: str
    form: Form


class Receive(Request, tag="receive"):
    """The next message to this client's name. `message` answers it; on disk by then: that it is delivered."""


class StopReceiving(Request, tag="stop_receiving"):
    """The time of the `receive` of this id is over. `nothing` answers both, unless a message was quicker."""


class AbandonReceiving(Request, tag="abandon_receiving"):
    """The `receive` of this id was interrupted. No answer; a message that was on its way waits again."""


class Respond(Request, tag="respond"):
    """Answer a received message. `settled` answers it; on disk by then: the response, and what follows.
    `waiting`: it was not received, and is refused when another client has it.
    """

    message_id: str
    payload: str
    form: Form
    success: bool
    waiting: bool = False


class Acknowledge(Request, tag="acknowledge"):
    """Settle a received message without a response. `settled` answers it; on disk by then: that it is.
    `waiting`: as for `respond`.
    """

    message_id: str
    waiting: bool = False


class Stop(Request, tag="stop"):
    """Finish what runs, hand out nothing more, and end. No answer but the end of the connection."""


AnyRequest: TypeAlias = (
    Hello | Start | Chunk | Open | Submit | Abandon | Watch | Cancel | Pause | Resume | SetLimit | Prune |
    AskForms | AskStatus
    | Send | Receive | StopReceiving | AbandonReceiving | Respond | Acknowledge | Stop
)  # fmt: skip
FromClient: TypeAlias = Request | Misfit

# ---- supervisor → client


class Answer(Frame):
    """What answers the request of this id."""

    request: str


class Welcome(Answer, tag="welcome"):
    """To `hello`. `listeners`: the newest table, by name, empty while the app is not imported. `forms`: how
    it writes values, None as long.
    """

    listeners: dict[str, ListenerSettings]
    forms: ValueForms | None = None


class Receiving(Answer, tag="receiving"):
    """To `start`: send on from this chunk, behind `received` items. `existing`: it is there, send none."""

    next_chunk: Count
    existing: bool
    received: Count = 0
    buffer_seq: int = 0


class Received(Answer, tag="received"):
    """To `chunk`: all before `next_chunk` are on disk."""

    next_chunk: Count


class Opened(Answer, tag="opened"):
    """To `open` and `submit`: the buffer is on disk with all its items. `existed`: it was before."""

    buffer_id: str
    buffer_seq: int
    total: int
    existed: bool


class Watching(Answer, tag="watching"):
    """To `watch`."""

    buffer_id: str


class Ended(Frame, tag="ended"):
    """A buffer that this connection has started, or watches, has ended; its BufferComplete is on disk."""

    buffer_id: str


class Controlled(Answer, tag="controlled"):
    """To `cancel`, `pause` and `resume`: how the buffer is now. Journaled if it cancelled a receiving one."""

    buffer_id: str
    state: str
    paused: bool


class LimitSet(Answer, tag="limit_set"):
    """To `set_limit`: how the limit is now."""

    name: str
    rate: str | None
    running: int | None
    by_hand: bool


class Pruned(Answer, tag="pruned"):
    """To `prune`: how many buffers were marked, and where to go on; None: all is done."""

    buffers: int
    next: Place | None


class AppForms(Answer, tag="app_forms"):
    """To `forms`."""

    forms: ValueForms


class Status(Answer, tag="status", forbid_unknown_fields=False, omit_defaults=False):
    """To `status`. Also clients of other versions ask: they pass over fields that they do not know."""

    workers: list[WorkerStatus] = msgspec.field(default_factory=list)
    import_error: str | None = None
    storage_full: bool = False
    now_ms: int = 0
    figures: Figures | None = None


class Sent(Answer, tag="sent"):
    """To `send`. Kept in the journal."""

    message_id: str
    thread_id: str


class Message(Answer, tag="message"):
    """To `receive`: a message, which is this client's until it settles it or its connection ends.
    `completes`: the buffer that it tells the end of, if it is a BufferComplete.
    """

    message_id: str
    kind: str
    from_id: str
    thread_id: str
    payload: str
    form: Form
    completes: int | None = None


class Nothing(Answer, tag="nothing"):
    """To `stop_receiving`: no message came."""


class Settled(Answer, tag="settled"):
    """To `respond` and `acknowledge`. Kept in the journal."""

    message_id: str


class Error(Frame, tag="error", forbid_unknown_fields=False):
    """A request was refused, and nothing of it was done; without a `request`, the connection ends.

    `type`: a class of `errors`. Also clients of other versions read it.
    """

    request: str | None
    type: str
    message: str
    buffer_id: str | None = None


class Fatal(Frame, tag="fatal", forbid_unknown_fields=False):
    """The last frame of a supervisor of one's own that ends with an error. `holder_pid`: who has its lock."""

    type: str
    message: str
    holder_pid: int | None = None


AnyAnswer: TypeAlias = (
    Welcome | Receiving | Received | Opened | Watching | Ended | Controlled | LimitSet | Pruned | AppForms |
    Status |
    Sent | Message | Nothing | Settled | Error | Fatal
)  # fmt: skip
ToClient: TypeAlias = Answer | Ended | Error | Fatal
