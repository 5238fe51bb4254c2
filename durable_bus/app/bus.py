"""A Bus: the named listeners of an app.

The decorator only notes and checks. Nothing runs, connects or spawns here: a worker imports the app, so
importing must stay light, and the supervisor never imports it, so a worker reports `Bus.settings()` to it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from msgspec.structs import replace

from durable_bus.app.handler_signature import (
    UNANNOTATED,
    check_answer_of,
    is_async,
    resolved,
    signature,
)
from durable_bus.app.options import check_retry_on, limit_settings, listener_settings, no_limit
from durable_bus.errors import UsageError
from durable_bus.payloads.forms import FORM_NAMES
from durable_bus.payloads.messages import HandlerMetadata, check_name
from durable_bus.payloads.reading import AS_IT_IS, PayloadType
from durable_bus.payloads.settings import LimitSettings, ListenerSettings, ValueForms
from durable_bus.payloads.values import ValueWriter

if TYPE_CHECKING:
    from durable_bus.client.client import Client

__all__ = ["Bus", "Listener"]

Handler = TypeVar("Handler", bound=Callable[..., Any])

TIMEOUT_S: Final = 3600.0
CONCURRENCY: Final = 100


@dataclass(frozen=True)
class Listener:
    """One listener as it was declared. Made by `Bus.listener`, which checks every field."""

    settings: ListenerSettings
    handler: Callable[..., Any]
    takes_metadata: bool
    raw_annotation: Any = field(repr=False)
    """The payload's annotation as written, a str where it could not be resolved yet."""
    pickles: bool = False
    """Whether its bus does."""
    retry_on: tuple[type[BaseException], ...] | None = None
    """The exceptions that are retried; None: all."""

    @functools.cached_property
    def payload_type(self) -> PayloadType:
        """How the payload arrives.

        Raises UsageError when it cannot be resolved, or nobody can make such a value of a payload.
        """
        try:
            return self.payload_type_by_now
        except NameError as error:
            raise UsageError(
                f"listener {self.settings.name}: cannot resolve its payload's type: {error}"
            ) from None

    @functools.cached_property
    def payload_type_by_now(self) -> PayloadType:
        """The same while the module is imported. Raises NameError, too, for a name that is not there yet: a
        class may stand below its handler in the file.
        """
        try:
            return PayloadType(resolved(self.raw_annotation, self.handler, {}), pickles=self.pickles)
        except UsageError as error:
            raise UsageError(f"listener {self.settings.name}: {error}") from None

    @property
    def annotation(self) -> Any:
        """The payload's, resolved. Raises as `payload_type` does."""
        return self.payload_type.annotation

    def call(self, payload: object, metadata: HandlerMetadata) -> Any:
        """What the handler returns; for an async one its coroutine. Raises what it raises."""
        return self.handler(payload, metadata) if self.takes_metadata else self.handler(payload)


class Bus:
    """The set of named listeners that an app defines. Assign it to a name at the top of a module: workers
    import it from there.

    `name`, 1 to 100 of `A-Z a-z 0-9 _ . -`, is for humans. Making a Bus starts nothing and writes nothing.

    - `form`: what a dataclass by itself becomes, as an item or answer: "xml", or "json". In answer to a JSON
      item it is JSON on every bus.
    - `pickle`: whether values that have no other form are pickled; else they are refused. Then any class may
      be a payload's annotation. Only this bus's workers load pickles, and a client's `Result.value`: a
      pickle is code, so let nobody write to the journal whom you would not let run code.

    Raises UsageError for a name or form that cannot be.
    """

    def __init__(self, name: str, *, form: Literal["xml", "json"] = "xml", pickle: bool = False) -> None:
        self.name = check_name(name, "bus")
        if form not in ("xml", "json"):
            raise UsageError(f'bus {name}: form={form!r:.100} is neither "xml" nor "json"')
        self.forms = ValueForms(form, bool(pickle))
        writer = ValueWriter(lambda: self.forms)
        self.writers: tuple[ValueWriter, ...] = tuple(
            writer.in_answer_to(one) for one in range(len(FORM_NAMES))
        )
        """How answers are written, by the form of what they answer."""
        self.listeners: dict[str, Listener] = {}
        self.limits: dict[str, LimitSettings] = {}
        # Which module makes this Bus: `running` must tell other processes where to find it.
        frame: types.FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is self:
            frame = frame.f_back  # a subclass's __init__
        self.module: str = "" if frame is None else str(frame.f_globals.get("__name__", ""))

    def __repr__(self) -> str:
        return f"<Bus {self.name!r} of {len(self.listeners)} listeners>"

    def limit(
        self, name: str, *, rate: str | None = None, running: int | None = None, adaptive: bool = False
    ) -> None:
        """Declare a limit: how often, and how many at once, handlers may start that go by it
        (`@bus.listener(..., limits=[name])`), over all workers, buffers, messages and restarts. What waits
        for it holds no worker.

        - `rate`: how many starts, such as "500/min", "10/s" or "3/15 min". In any time T no more start than
          rate x T, and what the rate gives in one second, at least one.
        - `running`: how many at once, 1 to 4,294,967,296, counting what a worker was given and has not begun.
        - `adaptive`: `running` is only the most. After a RetryAfter or a time-out fewer run at once, and then
          more again.

        Raises UsageError for a name, rate or number that cannot be, for a name given twice, for neither
        `rate` nor `running`, and for `adaptive` without `running`.
        """
        settings = limit_settings(name, rate, running, adaptive)
        if name in self.limits:
            raise UsageError(f"limit {name} is declared twice")
        self.limits[name] = settings

    def listener(
        self,
        name: str,
        *,
        timeout: float | None = TIMEOUT_S,
        attempts: int = 1,
        backoff: float = 0.0,
        backoff_max: float | None = None,
        jitter: float = 0.0,
        retry_on: type[BaseException] | tuple[type[BaseException], ...] | None = None,
        concurrency: int = CONCURRENCY,
        peers: list[str] | tuple[str, ...] | set[str] | None = None,
        limits: list[str] | tuple[str, ...] | set[str] = (),
        memo: str | None = None,
    ) -> Callable[[Handler], Handler]:
        """Declare the decorated function as the handler of the listener `name`. The function itself is
        returned unchanged. The outermost decorator decides whether a handler is sync or async.

        The handler's first parameter is the payload. Its annotation says how the payload arrives: str,
        `lxml.etree._Element`, a dataclass, TypedDict, NamedTuple, pydantic model, msgspec Struct, dict, list,
        int, float, bool or Any. Without one it arrives as it is: text as str, JSON as its value, XML as an
        element. What does not fit is a failed item of kind `malformed`. A second parameter that is annotated
        HandlerMetadata, or named `metadata`, gets the metadata. What the handler returns is its answer: None,
        str, a JSON value (dict, list, tuple, int, float, bool), a model, a dataclass, an element, Text, Xml,
        Json, or a HandlerResponse. An answer that has no form fails its item, which keeps its repr.

        - `timeout`: seconds for each attempt. A sync handler that takes longer loses its worker. None, for no
          limit, must be written out.
        - `attempts`: how often an item is tried, 1 to 1,000. Exceptions and time-outs are tried again.
        - `backoff`: seconds before the second attempt, doubled for each further one, up to `backoff_max`.
          `jitter`: how much of a wait may be left out, at random: 0 is nothing, 0.5 up to half of it.
        - `retry_on`: a class of exceptions, or a tuple; any other fails its item at once. None: all are tried
          again.
        - `concurrency`: how many async handlers run at once in each worker, 1 to 10,000. Sync ones run one at
          a time.
        - `peers`: the names that this listener may send to. None allows all.
        - `limits`: the names of the limits that hold for it (`Bus.limit`).
        - `memo`: a text of 1 to 100 characters, such as "v1". An item that is equal to one that has succeeded
          under the same text, in any buffer, gets that answer, and no handler runs.

        The outcome of each item is in the journal once, whatever happens; the handler may run more than once.
        Raises UsageError, naming the option, for a name or value that cannot be, for a name given twice, and
        for a handler whose parameters are none of these.
        """
        check_name(name, "listener")
        if name in self.listeners:
            raise UsageError(f"listener {name} is declared twice")
        settings = listener_settings(
            name, timeout, attempts, backoff, concurrency, peers, limits, backoff_max, jitter, memo
        )
        retried = check_retry_on(name, retry_on)

        def declare(handler: Handler) -> Handler:
            self._declare(handler, settings, retried, sys._getframe(1).f_locals)
            return handler

        return declare

    def _declare(
        self,
        handler: Callable[..., Any],
        settings: ListenerSettings,
        retry_on: tuple[type[BaseException], ...] | None,
        names: dict[str, Any],
    ) -> None:
        """The function that a decorator was given. `names`: those that its annotations may use."""
        name = settings.name
        if name in self.listeners:  # one decorator kept and used twice
            raise UsageError(f"listener {name} is declared twice")
        runs_async = is_async(name, handler)
        raw_annotation, takes_metadata = signature(name, handler, names)
        if raw_annotation is UNANNOTATED:
            raw_annotation = AS_IT_IS
            _warn_unannotated(name)
        if not self.forms.pickle:
            check_answer_of(name, handler, names)
        own = settings if runs_async else replace(settings, concurrency=1, is_async=False)
        listener = Listener(own, handler, takes_metadata, raw_annotation, self.forms.pickle, retry_on)
        with contextlib.suppress(NameError):  # then `settings` looks again
            listener.payload_type_by_now  # noqa: B018  it is judged here
        self.listeners[name] = listener

    def running(
        self,
        journal: str | os.PathLike[str] = "journal.db",
        workers: int | None = None,
        *,
        name: str | None = None,
        durability: Literal["full", "normal"] = "full",
        grace: float = 10.0,
        engine: str | None = None,
        engine_workers: int | None = None,
    ) -> contextlib.AbstractContextManager[Client]:
        """Start a supervisor with workers for this bus, and give a client of it:
        `with bus.running("journal.db", workers=4) as client:`.

        - `journal`: the file, made when there is none. Whatever is open in it goes on at once.
        - `workers`: how many processes. The default is the number of usable cores.
        - `name`: gives the client a mailbox of this name.
        - `durability`: "full" survives a power cut. "normal" survives every kill, and is faster on a slow
          disk.
        - `grace`: how many seconds what runs may take at the end.
        - `engine`: where items run when not in workers of the supervisor's own, such as "process:4",
          "dask:tcp://10.0.0.1:8786", or "module:factory" of any `concurrent.futures.Executor`
          (durable_bus/engines/README.md). Messages run in one worker here. Takes the place of `workers`.
        - `engine_workers`: how many batches the engine may hold at once. The default is twice as many as it
          runs at once.

        Leaving the block ends the supervisor. What runs is finished and recorded; what is left waits in the
        journal, and the same call goes on with it.

        Raises UsageError for a value that cannot be, BusNotImportable when workers could not import the bus,
        JournalLocked when another process serves the journal, JournalUnreachable when another user could
        write to it, and StorageFailed, also when the block is left, when the disk fails.
        """
        # By name: workers import this module, and must not pay for clients.
        embedded: Any = importlib.import_module("durable_bus.client.embedded")
        manager: contextlib.AbstractContextManager[Client] = embedded.running(
            self,
            journal,
            workers,
            name=name,
            durability=durability,
            grace=grace,
            engine=engine,
            engine_workers=engine_workers,
        )
        return manager

    def settings(self) -> dict[str, ListenerSettings]:
        """The settings of every listener by its name, in the order of declaration. Raises UsageError as
        `Listener.payload_type` does, and for a limit that nobody has declared: at boot, and not at the first
        item.
        """
        for name, listener in self.listeners.items():
            listener.payload_type  # noqa: B018  it is resolved here
            for limit in listener.settings.limits:
                if limit not in self.limits:
                    raise UsageError(f"listener {name}: {no_limit(limit, self.limits)}")
        return {name: listener.settings for name, listener in self.listeners.items()}


def _warn_unannotated(listener: str) -> None:
    """For one version: until 0.1 a payload without annotation was an element, whatever the item was."""
    warnings.warn(
        f"listener {listener}: its payload has no annotation, so text arrives as str, JSON as its value and "
        "XML as an element; annotate it, with Any to keep just that, or with lxml.etree._Element for what it "
        "was before",
        FutureWarning,
        stacklevel=4,
    )
