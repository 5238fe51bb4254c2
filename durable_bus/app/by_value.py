"""A function that no other process could import: made at a prompt or in a notebook, a lambda, a partial, a
method of an object. It is sent as it is, as a pickle.

cloudpickle writes the code of such a function, and of what that uses of `__main__`; what can be imported is
named, as in any pickle. A pickle is code: the supervisor of one's own gets it, and passes it on to its
workers; no journal has it, and no daemon is told it.
"""

import contextlib
import functools
import hashlib
import io
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle

from durable_bus.errors import UsageError, said
from durable_bus.payloads.same_pickles import Canonical

__all__ = ["FUNCTION_BYTES_MAX", "function_pickle", "identity", "loaded"]

FUNCTION_BYTES_MAX = 64 * 1024 * 1024
"""Each worker gets its own copy."""


def function_pickle(function: Callable[..., Any], name: str) -> bytes:
    """The function, with what it uses and the classes of `__main__`: of these may be what it is given and
    returns, of which a pickle has the name only. Raises UsageError when it cannot be pickled, or is too long.
    """
    try:
        data = _pickle((function, _classes_of_main()))
    except Exception as error:  # it runs code of what is pickled
        raise UsageError(
            f"no worker could import {name}, and it cannot be sent to them{_because_of(function)}: "
            f"{said(error)}: let it make that when it is called, or put it into a file"
        ) from error
    if len(data) > FUNCTION_BYTES_MAX:
        raise UsageError(
            f"{name} and what it uses are {len(data):,} bytes, more than {FUNCTION_BYTES_MAX:,}: give what "
            "is long with the items, or let the function read it"
        )
    return data


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's, which of a function with a cache would write the name."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, functools._lru_cache_wrapper) and not _can_import(value):
            options = value.cache_parameters()
            return _with_cache, (value.__wrapped__, options["maxsize"], options["typed"])
        return super().reducer_override(value)


def _with_cache(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Callable[..., Any]:
    return functools.lru_cache(maxsize, typed)(function)


def _pickle(value: object) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol=5).dump(value)
    return file.getvalue()


def _because_of(function: Callable[..., Any]) -> str:
    """What it uses that cannot be pickled, where that is easy to tell."""
    for name, value in _used(function).items() if isinstance(function, types.FunctionType) else ():
        try:
            _pickle(value)
        except Exception:
            return f", as it uses {name}"
    return ""


def _classes_of_main() -> dict[str, bytes]:
    """Those that were made there, and can be pickled: each by itself, as one that cannot be loaded may be one
    that nobody needs.
    """
    found = {}
    for name, value in list(vars(sys.modules["__main__"]).items()):
        if isinstance(value, type) and value.__module__ == "__main__" and value.__qualname__ == name:
            with contextlib.suppress(Exception):
                found[name] = _pickle(value)
    return found


def loaded(data: bytes) -> Any:
    """In a fresh process: the function, and a `__main__` of such classes. Raises whatever loading it
    raises.
    """
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    function, classes = pickle.loads(data)
    for name, pickled in classes.items():
        with contextlib.suppress(Exception):
            one = vars(main)[name] = pickle.loads(pickled)  # cloudpickle makes a class once in a process
            _name_inner(one)
    return function


def _name_inner(of: type) -> None:
    """cloudpickle forgets what a class stands in."""
    for name, value in vars(of).items():
        if isinstance(value, type) and value.__module__ == "__main__" and value.__qualname__ == name:
            value.__qualname__ = f"{of.__qualname__}.{name}"
            _name_inner(value)


# ---- the same function


class _Identity(Canonical):
    """Of functions it writes what they do: their code, and what that uses."""

    def __init__(self, file: io.BytesIO, seen: set[int]) -> None:
        super().__init__(file, protocol=5)
        self._seen = seen

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, types.ModuleType):
            return _part, ("module", value.__name__)
        if isinstance(value, functools._lru_cache_wrapper) and not _can_import(value):
            return _part, ("cached", value.__wrapped__)
        if isinstance(value, types.CodeType):
            return _part, ("code", value.co_code, value.co_consts, value.co_names, value.co_flags)
        is_function = isinstance(value, types.FunctionType)
        if not (is_function or isinstance(value, type)) or _can_import(value):
            return NotImplemented
        if id(value) in self._seen:  # it calls itself
            return _part, ("again", value.__qualname__)
        self._seen.add(id(value))
        return _part, _of_function(value) if is_function else _of_class(value, self._seen)


def _part(*facts: Any) -> None:
    """Stands in an identity for what has these facts. Nobody calls it."""


def _can_import(value: Any) -> bool:
    """Whether a fresh process would find it by its name. `__main__` is another one there."""
    if value.__module__ in ("__main__", "__mp_main__"):
        return False
    found: Any = sys.modules.get(value.__module__)
    for part in getattr(value, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is value


def _of_function(function: types.FunctionType) -> tuple[Any, ...]:
    return "function", function.__code__, function.__defaults__, function.__kwdefaults__, _used(function)


def _used(function: types.FunctionType) -> dict[str, Any]:
    """The values of its names that stand outside it, as far as they have one."""
    names, there = _names(function.__code__), function.__globals__
    used = {name: there[name] for name in names if name in there}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it has none yet
            used[name] = cell.cell_contents
    return used


def _of_class(of: type, seen: set[int]) -> tuple[Any, ...]:
    """Of what Python and libraries note in it, in names such as `__doc__`, only the functions: the rest may
    be another one in every process.
    """
    facts = {}
    for name, value in sorted(vars(of).items()):
        held = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(held, types.FunctionType) or not name.startswith("__"):
            try:
                facts[name] = _digest(held, seen)
            except Exception:
                facts[name] = type(held).__qualname__
    return "class", of.__qualname__, of.__bases__, facts


def _names(code: types.CodeType) -> list[str]:
    """The global names that it may use, and those of the functions in it."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found.update(_names(constant))
    return sorted(found)


def identity(function: Callable[..., Any], data: bytes) -> str:
    """The same for the same function in every process of the same Python: it has the same code, and what that
    uses is the same. `data`: its pickle, which says it where nothing else does; that is another one in every
    process.
    """
    try:
        return _digest(function, set())
    except Exception:
        return hashlib.sha256(data).hexdigest()


def _digest(value: object, seen: set[int]) -> str:
    """Raises whatever pickling it raises."""
    file = io.BytesIO()
    _Identity(file, seen).dump(value)
    return hashlib.sha256(file.getvalue()).hexdigest()
