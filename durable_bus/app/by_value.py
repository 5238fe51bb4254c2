"""A function that no other process could import: made at a prompt or in a notebook, a lambda, a partial, a
method of an object. It is sent as it is, as a pickle.

cloudpickle writes the code of such a function, and of what that uses of `__main__`; what can be imported is
named, as in any pickle. A pickle is code: the supervisor of one's own gets it, and passes it on to its
workers; no journal has it, and no daemon is told it.
"""

import contextlib
import functools
import hashlib
import inspect
import io
import os
import pickle
import re
import sys
import types
from collections.abc import Callable
from typing import Any, Final, TypeVar

import cloudpickle
import msgspec

from durable_bus.app.finding import is_found
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
        if isinstance(value, type(msgspec.Struct)) and not _can_import(value):
            raise pickle.PicklingError(f"a msgspec Struct of {value.__module__}")  # its fields would be lost
        return super().reducer_override(value)


def _can_import(value: Any) -> bool:
    """Whether a fresh process would find it by its name. `__main__` is another one there."""
    module = value.__module__
    return module not in ("__main__", "__mp_main__") and is_found(
        value, module, getattr(value, "__qualname__", "")
    )


def _with_cache(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Callable[..., Any]:
    return functools.lru_cache(maxsize, typed)(function)


def _pickle(value: object) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol=5).dump(value)
    return file.getvalue()


def _because_of(function: Callable[..., Any]) -> str:
    """What it uses that cannot be pickled, where that is easy to tell."""
    if not isinstance(function, types.FunctionType):
        return ""
    used = inspect.getclosurevars(function)
    for name, value in {**used.globals, **used.nonlocals}.items():
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

_NOTED: Final = frozenset(
    ("__classdictcell__", "__firstlineno__", "__slotnames__", "__static_attributes__")
    + ("__pydantic_core_schema__", "__pydantic_validator__", "__pydantic_serializer__")
    + ("__pydantic_decorators__", "__signature__")
)
"""What Python, copyreg and pydantic note in a class: made of the rest of it, another one in every process."""
_TRACKER = re.compile("[0-9a-f]{32}")
"""By this cloudpickle knows a class or TypeVar again in one process."""


class _Identity(Canonical):
    """Writes what cloudpickle would send, without what differs where nothing else does: places in files,
    random names, the order of sets.
    """

    dispatch_table = cloudpickle.Pickler.dispatch_table

    def __init__(self, file: io.BytesIO, digests: dict[int, str]) -> None:
        super().__init__(file, protocol=5)
        self._digests = digests
        """Of elements of sets, by their `id`; "" for one that is looked at just now."""
        self._sends = _Pickler(io.BytesIO(), protocol=5)

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, set | frozenset):
            return _part, (type(value), self._sorted(value), getattr(value, "__dict__", None))
        if isinstance(value, types.CodeType):
            return _part, tuple(getattr(value, name) for name in _CODE)
        if isinstance(value, TypeVar):
            return _part, (value.__name__, value.__bound__, value.__constraints__)
        if value is os.environ:
            return "environ"
        found = self._sends.reducer_override(value)
        if found is NotImplemented:
            return NotImplemented
        make, arguments, state, *more = (*found, None, None)[: max(3, len(found))]
        arguments = tuple(one for one in arguments if not (type(one) is str and _TRACKER.fullmatch(one)))
        if isinstance(value, type) and state is not None:
            noted = _noted(value)
            state = {name: fact for name, fact in sorted(state[0].items()) if name not in noted}, state[1]
        elif isinstance(value, types.FunctionType):
            arguments = arguments[0], None, *arguments[2:]  # not where its module is
        return make, arguments, state, *more

    def _sorted(self, elements: Any) -> list[Any]:
        for one in elements:
            if id(one) not in self._digests:
                self._digests[id(one)] = ""
                self._digests[id(one)] = _digest(one, self._digests)
        return sorted(elements, key=lambda one: self._digests[id(one)])


_CODE: Final = (
    *("co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_flags", "co_code", "co_consts"),
    *("co_names", "co_varnames", "co_name", "co_freevars", "co_cellvars", "co_exceptiontable"),
)
"""All but the file and the lines."""


def _part(*facts: Any) -> None:
    """Stands in an identity for what has these facts. Nobody calls it."""


def _noted(of: type) -> frozenset[str]:
    """Of a dataclass the text that shows its defaults, too, and of a class of attrs its hash."""
    text, hashes = of.__doc__ or "", getattr(of.__hash__, "__code__", None)
    shows = hasattr(of, "__dataclass_fields__") and text.startswith(f"{of.__name__}(")
    by_attrs = hashes is not None and hashes.co_filename.startswith("<attrs generated")
    return _NOTED.union(["__doc__"] if shows else [], ["__hash__"] if by_attrs else [])


def identity(function: Callable[..., Any], data: bytes) -> str:
    """The same for the same function in every process of the same Python: it has the same code, and what that
    uses is the same. `data`: its pickle, which says it where nothing else does; that is another one in every
    process.
    """
    try:
        return _digest(function, {})
    except Exception:
        return hashlib.sha256(data).hexdigest()


def _digest(value: object, digests: dict[int, str]) -> str:
    """Raises whatever pickling it raises."""
    file = io.BytesIO()
    _Identity(file, digests).dump(value)
    return hashlib.sha256(file.getvalue()).hexdigest()
