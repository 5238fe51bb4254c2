"""What every process is told: of an app, where it is found and the settings of its listeners; how durable."""

from typing import Literal

import msgspec

__all__ = [
    "DURABILITIES",
    "AppSpec",
    "LimitSettings",
    "ListenerSettings",
    "MappedSettings",
    "ValueForms",
]

DURABILITIES = {"full": "FULL", "normal": "NORMAL"}
"""What an acknowledged commit survives, a power cut or only a kill: as users say it, and as SQLite does.
Here, as who starts a supervisor has no other use for SQLite.
"""


class MappedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of the one listener that a function becomes, where the app is a function."""

    listener: str
    timeout_s: float | None
    attempts: int
    is_main: bool = False
    """It is of a module that was run with `python -m`, as are classes of values that it takes."""


class AppSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a fresh process finds an app's Bus, or a function."""

    kind: Literal["module", "path", "pickle"]
    value: str
    """A module's name, or a script's absolute path, for a Bus that was made in `__main__`."""
    attribute: str
    """The name that holds the Bus there; of a function also dotted, such as `Parser.parse`. Of a pickle it is
    for people only.
    """
    sys_path: list[str]
    """The folders to import from."""
    mapped: MappedSettings | None = None
    """It is a function, and these are its settings; None: it is a Bus."""
    argv: list[str] | None = None
    """`sys.argv` of the script that it stands in, which its workers run, too; None: it is in a module."""
    pickle: bytes | None = None
    """The function itself, where no other process could import it (`app.by_value`)."""

    @property
    def name(self) -> str:
        """Such as `module:function`."""
        return f"{self.value}:{self.attribute}"


class ValueForms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """How a bus writes values whose type alone does not say it. A worker reports it, and a client is told."""

    form: Literal["xml", "json"] = "xml"
    """Of a dataclass by itself."""
    pickle: bool = False
    """Whether what has no other form is pickled, else it is refused."""


class ListenerSettings(msgspec.Struct, frozen=True, gc=False):
    """What the options of `Bus.listener` have come to. A worker reports them, the supervisor goes by them and
    journals them with its run, a client reads them as plain values.
    """

    name: str
    timeout_s: float | None
    """Seconds that an attempt may take; None: no limit."""
    attempts: int
    """How often an exception or a time-out is answered by another attempt, the first one counted."""
    backoff_s: float
    """Seconds before the second attempt, doubled for each further one."""
    concurrency: int
    """How many run at once in each worker; 1 for a sync handler."""
    is_async: bool
    peers: tuple[str, ...] | None
    """The names that the handler may send to; None: all."""
    limits: tuple[str, ...] = ()
    """The names of the limits that hold for it."""
    backoff_max_s: float | None = None
    """The longest wait between two attempts, in seconds; None: no limit."""
    jitter: float = 0.0
    """How much of a wait may be left out, at random, from 0 to 1."""
    memo: str | None = None
    """Under which text answers are given again to equal items; None: they are not."""


class LimitSettings(msgspec.Struct, frozen=True, gc=False):
    """What the options of `Bus.limit` have come to: how often, and how many at once, something may start."""

    name: str
    rate: str | None
    """As it is said, such as "500/min" (`payloads.rates`); None: as often as one likes."""
    running: int | None
    """How many at once; None: any number."""
    adaptive: bool = False
    """Whether `running` is but the most, and fewer run while the other side says that it is too many."""
