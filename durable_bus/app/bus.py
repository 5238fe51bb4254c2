"""A Bus: the named listeners of an app; and how another process finds it again.

The decorator only notes and checks. Nothing runs, connects or spawns here: a worker imports the app, so
importing must stay light, and the supervisor never imports it, so a worker reports `Bus.settings()` to it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import runpy
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from msgspec.structs import replace

from durable_bus.app.handler_signature import is_async, resolved, signature
from durable_bus.errors import BusNotImportable, UsageError, said
from durable_bus.payloads.messages import SECONDS_MAX, SYSTEM_BUFFER, HandlerMetadata, check_name, is_seconds
from durable_bus.payloads.settings import AppSpec, ListenerSettings
from durable_bus.payloads.xml import check_annotation

if TYPE_CHECKING:
    from durable_bus.client.client import Client

__all__ = [
    "Bus",
    "Listener",
    "app_spec",
    "load_app",
    "load_bus",
    "parse_spec",
    "spec_here",
]

Handler = TypeVar("Handler", bound=Callable[..., Any])

TIMEOUT_S: Final = 3600.0
ATTEMPTS_MAX: Final = 1000
CONCURRENCY: Final = 100
CONCURRENCY_MAX: Final = 10_000


@dataclass(frozen=True)
class Listener:
    """One listener as it was declared. Made by `Bus.listener`, which checks every field."""

    settings: ListenerSettings
    handler: Callable[..., Any]
    takes_metadata: bool
    raw_annotation: Any = field(repr=False)
    """The payload's annotation as written, a str where it could not be resolved yet."""

    @functools.cached_property
    def annotation(self) -> Any:
        """How the payload arrives: a dataclass, `etree._Element` or str.

        Resolved at decoration where possible, else here: a class may stand below its handler in the file.

        Raises UsageError when it cannot be resolved, or is neither of the three.
        """
        try:
            annotation = resolved(self.raw_annotation, self.handler, {})
            check_annotation(annotation)
        except NameError as error:
            raise UsageError(
                f"listener {self.settings.name}: cannot resolve its payload's type: {error}"
            ) from None
        except UsageError as error:
            raise UsageError(f"listener {self.settings.name}: {error}") from None
        return annotation

    def call(self, payload: object, metadata: HandlerMetadata) -> Any:
        """What the handler returns; for an async one its coroutine. Raises what it raises."""
        return self.handler(payload, metadata) if self.takes_metadata else self.handler(payload)


class Bus:
    """The set of named listeners that an app defines. `name` is for humans. Raises UsageError for a bad name.

    `module` is the name of the module that made it, `listeners` maps names to listeners in the order of
    declaration.
    """

    def __init__(self, name: str) -> None:
        """Note who makes this Bus, because `running` must tell other processes where to find it."""
        self.name = check_name(name, "bus")
        self.listeners: dict[str, Listener] = {}
        frame: types.FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is self:
            frame = frame.f_back  # a subclass's __init__
        self.module: str = "" if frame is None else str(frame.f_globals.get("__name__", ""))

    def __repr__(self) -> str:
        """The name, and how many listeners."""
        return f"<Bus {self.name!r} of {len(self.listeners)} listeners>"

    def listener(
        self,
        name: str,
        *,
        timeout: float | None = TIMEOUT_S,
        attempts: int = 1,
        backoff: float = 0.0,
        concurrency: int = CONCURRENCY,
        peers: list[str] | None = None,
    ) -> Callable[[Handler], Handler]:
        """Declare the decorated function, sync or async, as the listener `name`; it is returned unchanged.
        One that other decorators have wrapped is what the outermost is: a `def` returns the answer, and no
        coroutine.

        The first parameter is the payload, and its annotation says how that arrives: a dataclass,
        `etree._Element` (the default) or str. A second one, if it is annotated HandlerMetadata or named
        `metadata`, is the metadata.

        `timeout`, in seconds, is of each attempt; None, for no limit, must be written out. `attempts` counts
        exceptions and time-outs; `backoff` is the seconds before the second attempt, doubled for each further
        one. `concurrency`: how many run at once in each worker, for async handlers; sync ones run one at a
        time. `peers`: the names this listener may send to, None for all.

        Raises UsageError, naming the option, for a name or value that cannot be, a name given twice, or a
        handler whose parameters are none of these.
        """
        check_name(name, "listener")
        if name in self.listeners:
            raise UsageError(f"listener {name} is declared twice")
        timeout_s = None if timeout is None else _seconds(name, "timeout", timeout, zero=False)
        attempts = _count(name, "attempts", attempts, ATTEMPTS_MAX)
        backoff_s = _seconds(name, "backoff", backoff, zero=True)
        peer_names = _peers(name, peers)
        concurrency = _count(name, "concurrency", concurrency, CONCURRENCY_MAX)

        def declare(handler: Handler) -> Handler:
            if name in self.listeners:  # one decorator kept and used twice
                raise UsageError(f"listener {name} is declared twice")
            runs_async = is_async(name, handler)
            raw_annotation, takes_metadata = signature(name, handler, sys._getframe(1).f_locals)
            settings = ListenerSettings(
                name=name,
                timeout_s=timeout_s,
                attempts=attempts,
                backoff_s=backoff_s,
                concurrency=concurrency if runs_async else 1,
                is_async=runs_async,
                peers=peer_names,
            )
            if not isinstance(raw_annotation, str):
                try:
                    check_annotation(raw_annotation)
                except NameError:
                    pass  # a field's type is declared further down; `annotation` looks again
                except UsageError as error:
                    raise UsageError(f"listener {name}: {error}") from None
            self.listeners[name] = Listener(settings, handler, takes_metadata, raw_annotation)
            return handler

        return declare

    def running(
        self,
        journal: str | os.PathLike[str] = "journal.db",
        workers: int | None = None,
        *,
        name: str | None = None,
        durability: Literal["full", "normal"] = "full",
        grace: float = 10.0,
    ) -> contextlib.AbstractContextManager[Client]:
        """A supervisor of our own for this bus, as `with bus.running(journal="journal.db", workers=4) as
        client:`.

        `workers` defaults to the usable cores. `durability` is "full" or "normal" (survives any kill, not a
        power cut). Leaving the block finishes what runs, within `grace` seconds, and gives the rest back: the
        same call goes on with it. Raises UsageError for a value that cannot be, BusNotImportable when workers
        could not import the bus, JournalLocked when another process serves the journal, JournalUnreachable
        when another user could write to it, StorageFailed, also at its end, when the disk fails.
        """
        # By name: workers import this module, and must not pay for clients.
        embedded: Any = importlib.import_module("durable_bus.client.embedded")
        manager: contextlib.AbstractContextManager[Client] = embedded.running(
            self, journal, workers, name=name, durability=durability, grace=grace
        )
        return manager

    def settings(self) -> dict[str, ListenerSettings]:
        """The settings of every listener by its name, in the order of declaration. Raises UsageError as
        `Listener.annotation` does: at boot, and not at the first item.
        """
        for listener in self.listeners.values():
            listener.annotation  # noqa: B018  it is resolved here
        return {name: listener.settings for name, listener in self.listeners.items()}


# ---- options


def _seconds(listener: str, option: str, value: object, zero: bool) -> float:
    if not is_seconds(value) or value > SECONDS_MAX or (value == 0 and not zero):
        least = "at least 0" if zero else "above 0"
        raise UsageError(
            f"listener {listener}: {option}={value!r:.100} is not a number of seconds {least} and at most "
            f"{SECONDS_MAX:,}"
        )
    return float(value)


def _count(listener: str, option: str, value: object, count_max: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= count_max:
        raise UsageError(
            f"listener {listener}: {option}={value!r:.100} is not a whole number from 1 to {count_max}"
        )
    return value


def _peers(listener: str, peers: object) -> tuple[str, ...] | None:
    if peers is None:
        return None
    if not isinstance(peers, (list, tuple, set, frozenset)):  # a str is iterable too, letter by letter
        raise UsageError(f"listener {listener}: peers={peers!r:.100} is not a list of names")
    return tuple(
        peer if peer == SYSTEM_BUFFER else check_name(peer, f"listener {listener}: peer") for peer in peers
    )


# ---- finding a Bus again


def parse_spec(spec: str) -> AppSpec:
    """The app `module:attribute`, as `load_app` takes it. Raises BusNotImportable for another form."""
    module, colon, attribute = spec.partition(":")
    if (
        not colon
        or not attribute.isidentifier()
        or not all(part.isidentifier() for part in module.split("."))
    ):
        raise BusNotImportable(f"{spec!r} is not module:attribute, such as audit:bus")
    return AppSpec("module", module, attribute)


def spec_here(spec: str) -> AppSpec:
    """The same for other processes: in our current folder first, as `python -m` would, then as we import."""
    return replace(parse_spec(spec), sys_path=[os.getcwd(), *map(os.path.abspath, sys.path)])


def load_bus(spec: str) -> Bus:
    """The Bus that `module:attribute` names; the current folder is importable.

    Raises BusNotImportable, one line saying which of the two is wrong, and how.
    """
    return load_app(parse_spec(spec))


def app_spec(bus: Bus) -> AppSpec:
    """Where a fresh process finds this Bus.

    Raises BusNotImportable when no other process could: typed at a prompt, from stdin or `-c`, or in no
    module's name.
    """
    for module_name in dict.fromkeys([bus.module, "__main__", *sys.modules]):
        module = sys.modules.get(module_name)
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is bus and attribute.isidentifier():
                found = AppSpec("module", module_name, attribute)
                if module_name == "__main__":
                    found = _main(attribute)
                # A process may start in another folder.
                return replace(found, sys_path=list(dict.fromkeys(map(os.path.abspath, sys.path))))
    raise BusNotImportable(
        f"no module has a name for Bus {bus.name!r}: workers import it, so assign it at the top of a module"
    )


def _main(attribute: str) -> AppSpec:
    """How to import what this process runs as `__main__`: by name for `python -m name`, else by its file."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return AppSpec("module", str(spec.name), attribute)
    path = getattr(main, "__file__", None)
    if path is None or not os.path.isfile(path):
        raise BusNotImportable(
            f"Bus {attribute!r} was made at a prompt, from stdin or with -c, where no worker can import it: "
            "put it into a file"
        )
    return AppSpec("path", os.path.abspath(path), attribute)


def load_app(app: AppSpec) -> Bus:
    """The Bus that `app_spec` or `parse_spec` described. For a fresh process: a script becomes its
    `__main__`.

    As multiprocessing's spawn does, a script runs under the name `__mp_main__`, so that what stands under
    `if __name__ == "__main__":` does not run again. Without a `sys_path` the current folder is importable.

    Raises BusNotImportable, one line, with the type and message of what the app raised.
    """
    where, attribute = app.value, app.attribute
    if app.sys_path is not None:
        sys.path[:] = app.sys_path
    elif os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(where) if app.kind == "module" else _run_script(where)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if app.kind == "module" and (where == missing or where.startswith(missing + ".")):
            raise BusNotImportable(f"no module named {missing}") from None
        raise BusNotImportable(f"importing {where} failed: {said(error)}") from error
    except (Exception, SystemExit) as error:
        raise BusNotImportable(f"importing {where} failed: {type(error).__name__}: {said(error)}") from error
    if not hasattr(module, attribute):
        raise BusNotImportable(f"{where} has no attribute {attribute}")
    bus = getattr(module, attribute)
    if not isinstance(bus, Bus):
        raise BusNotImportable(f"{where}:{attribute} is a {type(bus).__name__}, not a Bus")
    return bus


def _run_script(path: str) -> types.ModuleType:
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(runpy.run_path(path, run_name="__mp_main__"))
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    return module
