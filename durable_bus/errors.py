"""Every error of the package, as one tree; each class says which exit code the command line ends with.

::

    DurableBusError                  2
    ├── UsageError                   2   ├── LimitExceeded       2
    ├── BusNotImportable             2   ├── InsideHandler       2
    ├── BufferError                  2   ├── UnsupportedPlatform 2
    │   ├── BufferEnded              2   │
    │   └── OtherItems               2   │
    ├── MessageRefused               2   ├── EngineError         2
    ├── VersionMismatch              2   ├── NotFound            3
    │                                    └── TimedOut            6
    ├── Interrupted                  4
    ├── SupervisorLost               4
    ├── JournalError                 5
    │   ├── JournalLocked                ├── JournalUnreachable
    │   ├── NotAJournal                  ├── StorageFailed
    │   ├── JournalTooNew                └── StorageFull
    │   ├── JournalTooOld
    │   └── JournalDamaged
    ├── RetryAfter                   1   raised by a handler: its item comes back later
    ├── ItemFailed                   1
    └── ItemError                    1   never leaves its item: becomes a failed result
        ├── MalformedItem
        ├── UnserialisableAnswer
        └── WorkerDeath
            ├── EngineLost
            ├── WorkerExited
            ├── WorkerKilled
            ├── WorkerSilent
            ├── WorkerUnintelligible
            └── WorkerUnresponsive

A class's docstring says what it means. Its first line is the message when none is given. Every message is one
line, because the command line prints one line (DESIGN section 7) and a log keeps one line an event.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import ClassVar, Final

__all__ = [
    "RETRY_AFTER_S_MAX",
    "BufferEnded",
    "BufferError",
    "BusNotImportable",
    "DurableBusError",
    "EngineError",
    "EngineLost",
    "InsideHandler",
    "Interrupted",
    "ItemError",
    "ItemFailed",
    "JournalDamaged",
    "JournalError",
    "JournalLocked",
    "JournalTooNew",
    "JournalTooOld",
    "JournalUnreachable",
    "LimitExceeded",
    "MalformedItem",
    "MessageRefused",
    "NotAJournal",
    "NotFound",
    "OtherItems",
    "RetryAfter",
    "StorageFailed",
    "StorageFull",
    "SupervisorLost",
    "TimedOut",
    "UnserialisableAnswer",
    "UnsupportedPlatform",
    "UsageError",
    "VersionMismatch",
    "WorkerDeath",
    "WorkerExited",
    "WorkerKilled",
    "WorkerSilent",
    "WorkerUnintelligible",
    "WorkerUnresponsive",
    "encodable",
    "one_line",
    "said",
]

RETRY_AFTER_S_MAX: Final = 86_400
"""The longest time after which an item may come back, in seconds: it fails when that goes on for as long."""
MESSAGE_CHARS_MAX: Final = 4096
"""Longest message kept, in characters: a library may put a whole payload into its exception."""


def encodable(text: str) -> str:
    """Return the text with each lone surrogate written as an escape, such as ``\\udce9``.

    Python puts lone surrogates into the name of a file that is not UTF-8, and so into what an exception says
    of that file. They cannot be encoded, so they could be neither sent nor journaled.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """Return the text as one line: `encodable`, each run of white space made one space, and cut at
    MESSAGE_CHARS_MAX characters.
    """
    line = encodable(" ".join(text[: MESSAGE_CHARS_MAX * 2].split()))
    return line if len(line) <= MESSAGE_CHARS_MAX else line[: MESSAGE_CHARS_MAX - 1] + "…"


def said(error: BaseException) -> str:
    """Return what an exception says, as one line. Never raises.

    `__str__` may be anybody's code, and may itself raise or exit; then a fixed text says so.
    """
    try:
        return one_line(str(error))
    except BaseException:
        return "(an exception that cannot say what it is)"


class DurableBusError(Exception):
    """Something went wrong, and the caller must know about it."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str = "") -> None:
        """Keep `message` as one line; "" stands for the first line of the class's docstring."""
        super().__init__(one_line(message or (type(self).__doc__ or "").partition("\n")[0]))


class UsageError(DurableBusError):
    """The call, its arguments or its input cannot be used as given; nothing was changed."""


class BusNotImportable(DurableBusError):
    """No fresh process can import this Bus: the form, the module, its import or the attribute is wrong."""


@dataclass(unsafe_hash=True)
class BufferError(DurableBusError):  # the origin's name: it shadows the builtin on purpose
    """A buffer was refused; nothing of it is in the journal.

    It is an exception for a client, and a payload of the bus for the listener that returned the BufferStart,
    because both are told the same. It is not frozen, because Python sets attributes on an exception that is
    raised.

    Fields: `buffer_id`, or "unknown" when the start named none; `error`, one line for a human.
    """

    buffer_id: str
    error: str

    def __post_init__(self) -> None:
        """Give Exception the same two arguments, so that the error can be copied and pickled."""
        Exception.__init__(self, self.buffer_id, self.error)

    def __str__(self) -> str:
        """One line: the buffer and the reason."""
        return one_line(f"buffer {self.buffer_id}: {self.error}")


class BufferEnded(BufferError):
    """The stream has ended early, by its own terms: no more of its items are taken."""


class OtherItems(BufferError):
    """A buffer of this id is there already, with other items."""


class MessageRefused(DurableBusError):
    """The message was not accepted: its recipient is unknown, or may not be written to from here."""


class VersionMismatch(DurableBusError):
    """The daemon runs another version of durable_bus than this program."""


class LimitExceeded(DurableBusError):
    """A named limit was exceeded; nothing was changed."""


class InsideHandler(DurableBusError):
    """A handler must not open a Client on its own bus: return BufferStart(target, items) instead."""


class UnsupportedPlatform(DurableBusError):
    """durable_bus needs Linux, Python 3.11 and SQLite 3.38, or newer; and a Python that can be started again,
    which a frozen program is not.
    """


class EngineError(DurableBusError):
    """The engine cannot be used: its name, what it needs installed, or what it connects to is wrong."""


class NotFound(DurableBusError):
    """The journal holds nothing of this name."""

    exit_code = 3


class Interrupted(DurableBusError):
    """Interrupted before the work was complete; run the same again to go on.

    The results recorded so far are in the journal, and do not run again.
    """

    exit_code = 4


class SupervisorLost(DurableBusError):
    """The supervisor ended before it answered; run the same again to go on.

    What it had acknowledged is in the journal. What was asked last may be there, or not.
    """

    exit_code = 4


class JournalError(DurableBusError):
    """The journal cannot be used."""

    exit_code = 5


class JournalLocked(JournalError):
    """Another process serves this journal."""

    def __init__(self, holder_pid: int | None = None, journal: str = "") -> None:
        """Name the holder of the lock, where it is known, and the journal's path, where it is given."""
        self.holder_pid = holder_pid
        holder = "another process" if holder_pid is None else f"process {holder_pid}"
        super().__init__(
            f"journal {journal} is served by {holder}" if journal else f"{holder} serves this journal"
        )


class NotAJournal(JournalError):
    """The file is not a journal of durable_bus."""


class JournalTooNew(JournalError):
    """The journal was written by a newer version of durable_bus."""


class JournalTooOld(JournalError):
    """The journal was written by an older version, and not upgraded in passing: run durable-bus migrate."""


class JournalDamaged(JournalError):
    """The journal is damaged; restore a backup, or look at it with `check`."""


class JournalUnreachable(JournalError):
    """The journal cannot be opened, or no daemon serves it."""


class StorageFailed(JournalError):
    """Storage failed and it is unknown whether the last commit happened; the next start reads the truth.

    Nobody was told anything of that commit. All commits before it are in the journal.
    """


class StorageFull(JournalError):
    """No room on disk; nothing of this was written."""


class TimedOut(DurableBusError):
    """The time-out of this call passed; what it waited for goes on."""

    exit_code = 6


class ItemError(DurableBusError):
    """One item failed. It never leaves its item: its result is a failure of kind `kind` (view `failures`)."""

    exit_code = 1
    kind: ClassVar[str] = "exception"


class ItemFailed(DurableBusError):
    """An item has failed, and its value was asked for."""

    exit_code = 1

    def __init__(self, index: int, kind: str, message: str, traceback: str = "") -> None:
        """`kind`: as in the view `failures`, or that of a SystemError that a handler has answered."""
        super().__init__(f"item {index} failed: {kind}: {message}")
        self.index = index
        self.kind = kind
        self.message = message
        self.traceback = traceback


class RetryAfter(DurableBusError):
    """A handler raises it: the service that it calls wants to be left alone for a while."""

    exit_code = 1

    def __init__(self, seconds: float, limit: str | None = None, message: str = "") -> None:
        """The item, or message, comes back in `seconds`, and no attempt is charged. `limit`: the name of the
        limit of the bus that rests until then; None: none does. `message`: why, for the view `failures`.

        It waits 10 ms at least, and each time 10 ms longer, up to a second. After 1,000 returns, or 24 hours,
        the item fails. Raises UsageError for no number of seconds.
        """
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not is_number or not 0 <= seconds <= RETRY_AFTER_S_MAX:
            most = f"{RETRY_AFTER_S_MAX:,}"
            raise UsageError(f"RetryAfter({seconds!r:.100}) is not a number of seconds from 0 to {most}")
        rests = f", limit {limit}" if limit else ""
        super().__init__(f"{seconds:g} s{rests}" + (f": {message}" if message else ""))
        self.seconds = float(seconds)
        self.limit = limit
        self.message = message

    def __reduce__(self) -> tuple[type, tuple[float, str | None, str]]:
        return type(self), (self.seconds, self.limit, self.message)


class MalformedItem(ItemError):
    """The item is not what its listener takes: not one element, a DOCTYPE, a field too many or missing."""

    kind = "malformed"


class UnserialisableAnswer(ItemError):
    """The handler's answer has no form, so it could never be delivered."""

    kind = "answer"
    answer = ""
    """Its repr, which the failed result keeps."""


class WorkerDeath(ItemError):
    """A worker process ended while it ran this item."""

    kind = "lost"


class EngineLost(WorkerDeath):
    """The engine has brought nothing back of this item."""

    def __init__(self, why: str) -> None:
        super().__init__(f"lost by the engine: {why}")


class WorkerExited(WorkerDeath):
    """The worker process ended by itself."""

    def __init__(self, code: int) -> None:
        super().__init__(f"worker exited with code {code}")
        self.code = code


class WorkerKilled(WorkerDeath):
    """The worker process was ended by a signal."""

    def __init__(self, signal_number: int) -> None:
        """`signal_number`: as in `-Popen.returncode`, a positive number."""
        self.signal_number = signal_number
        try:
            name = signal.Signals(signal_number).name
        except ValueError:  # a real-time signal between SIGRTMIN and SIGRTMAX has no name
            name = f"signal {signal_number}"
        super().__init__(f"worker killed by {name}")


class WorkerSilent(WorkerDeath):
    """The worker process was ended because the item ran past its listener's time-out."""

    kind = "timeout"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"no answer within {timeout_s:g} s")


class WorkerUnintelligible(WorkerDeath):
    """The worker process was ended because it wrote what is none of a worker's frames."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"worker wrote what is no frame of a worker: {reason}")


class WorkerUnresponsive(WorkerDeath):
    """The worker process was ended because it did not begin, or report, what it was given."""

    def __init__(self) -> None:
        super().__init__("worker did not begin what it was given")
