"""Opens an engine by its name: which there are, how they are spelt, and what is missing where one cannot be
had.

Nothing of an engine is imported before it is opened: the command line checks the spelling of a spec here.
"""

import concurrent.futures
import importlib
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from durable_bus.engines.engine import Call, Engine, EngineGone, Fate
from durable_bus.errors import EngineError, said
from durable_bus.wire.cores import usable_cores
from durable_bus.wire.engine_errors import engine_says

__all__ = ["KINDS", "Engine", "EngineGone", "Fate", "check_spec", "open_engine"]

KINDS: Final = (
    "process:N, loky:N, dask:ADDRESS, executorlib:N, executorlib:slurm:N, executorlib:flux:N, mpi:N, "
    "MODULE:FACTORY"
)
_COUNT_MAX = 10_000
_PYTHON_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class _Spec(NamedTuple):
    """A spec, taken apart."""

    kind: str
    """"factory" for MODULE:FACTORY."""
    workers: int | None = None
    rest: str = ""
    """The address, the job scheduler, or MODULE:FACTORY."""


def check_spec(spec: str) -> None:
    """Raise EngineError unless the spec is spelt as one of KINDS."""
    _parse(spec)


def open_engine(spec: str, prepare: Call) -> Engine:
    """Open the engine that the spec names.

    `prepare`: what each worker does first, before it gets a batch, where the engine can have that done.

    Raises EngineError, with one line for a user, when it is misspelt, its package is missing, or what it
    connects to does not answer.
    """
    parsed = _parse(spec)
    try:
        return _OPENERS[parsed.kind](spec, parsed, prepare)
    except ModuleNotFoundError as error:
        package = parsed.kind
        if package == "factory" or (error.name or "").startswith("durable_bus"):
            raise
        raise EngineError(
            engine_says(spec, f"{error.name} is not installed; pip install 'durable-bus[{package}]'")
        ) from error


def _parse(spec: str) -> _Spec:
    kind, colon, rest = spec.partition(":")
    if kind in ("process", "loky", "mpi"):
        return _Spec(kind, _count(spec, rest, colon))
    if kind == "dask":
        if not rest or rest.split() != [rest]:
            raise EngineError(
                engine_says(spec, "dask needs the scheduler's address, as in dask:tcp://127.0.0.1:8786")
            )
        return _Spec(kind, rest=rest)
    if kind == "executorlib":
        scheduler, more, count = rest.partition(":")
        if scheduler in ("slurm", "flux"):
            return _Spec(kind, _count(spec, count, more), scheduler)
        return _Spec(kind, _count(spec, rest, colon))
    if colon and _PYTHON_PATH.fullmatch(kind) and _PYTHON_PATH.fullmatch(rest):
        return _Spec("factory", rest=spec)
    raise EngineError(f"unknown engine {spec!r}; there are {KINDS}")


def _count(spec: str, text: str, colon: str) -> int | None:
    """The N of a spec; None when it was left out."""
    if not colon:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= _COUNT_MAX):
        raise EngineError(engine_says(spec, f"{text!r} is not a number of workers from 1 to {_COUNT_MAX}"))
    return int(text)


def _open_process(spec: str, parsed: _Spec, prepare: Call) -> Engine:
    from durable_bus.engines.one_each import OneEach
    from durable_bus.engines.pools_of_one import process_pools

    return OneEach(spec, parsed.workers or usable_cores(), process_pools(), prepare)


def _open_loky(spec: str, parsed: _Spec, prepare: Call) -> Engine:
    from durable_bus.engines.one_each import OneEach
    from durable_bus.engines.pools_of_one import loky_pools

    return OneEach(spec, parsed.workers or usable_cores(), loky_pools(), prepare)


def _open_executorlib(spec: str, parsed: _Spec, prepare: Call) -> Engine:
    from durable_bus.engines.one_each import OneEach
    from durable_bus.engines.pools_of_one import executorlib_pools

    return OneEach(spec, parsed.workers or usable_cores(), executorlib_pools(parsed.rest), prepare)


def _open_dask(spec: str, parsed: _Spec, prepare: Call) -> Engine:
    from durable_bus.engines.dask import DaskEngine

    return DaskEngine(spec, parsed.rest, prepare)


def _open_mpi(spec: str, parsed: _Spec, prepare: Call) -> Engine:
    from durable_bus.engines.mpi import MpiEngine

    return MpiEngine(spec, parsed.workers)


def _open_factory(spec: str, parsed: _Spec, prepare: Call) -> Engine:
    from durable_bus.engines.factory import FactoryEngine

    return FactoryEngine(spec, _find_factory(spec, parsed.rest))


def _find_factory(spec: str, path: str) -> Callable[[], Any]:
    module_name, _, attributes = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except Exception as error:  # the user's module may raise anything
        raise EngineError(
            engine_says(spec, f"{type(error).__name__}: {said(error)}; there are {KINDS}")
        ) from error
    if not callable(found) or isinstance(found, concurrent.futures.Executor):
        raise EngineError(engine_says(spec, f"{path} is no callable that returns an Executor"))
    factory: Callable[[], Any] = found
    return factory


_OPENERS: Final[dict[str, Callable[[str, _Spec, Call], Engine]]] = {
    "process": _open_process,
    "loky": _open_loky,
    "executorlib": _open_executorlib,
    "dask": _open_dask,
    "mpi": _open_mpi,
    "factory": _open_factory,
}
