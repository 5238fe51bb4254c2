"""How another process finds a Bus, or a function, again: by `module:attribute`, or by where this process has
it.
"""

import importlib
import os
import runpy
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from durable_bus.app.options import check_attempts, check_timeout
from durable_bus.errors import BusNotImportable, UsageError, said
from durable_bus.payloads.messages import check_name
from durable_bus.payloads.settings import AppSpec, MappedSettings

if TYPE_CHECKING:
    from durable_bus.app.bus import Bus

__all__ = [
    "app_spec",
    "function_spec",
    "is_found",
    "known_as",
    "load_app",
    "mapped_settings",
    "parse_function_spec",
    "parse_spec",
]


def parse_spec(spec: str) -> AppSpec:
    """The app that `module:attribute` names. Modules of the current folder come first, as with `python -m`.

    Raises BusNotImportable for another form. The module is not imported here.
    """
    module, _, attribute = spec.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise BusNotImportable(f"{spec!r} is not module:attribute, such as audit:bus")
    return _described("module", module, attribute, [os.getcwd(), *sys.path])


def app_spec(bus: "Bus") -> AppSpec:
    """The app that this Bus of the running process is.

    Raises BusNotImportable when no other process could import it: it was made at a prompt, from stdin or with
    `-c`, or no module has a name for it.
    """
    for module_name in dict.fromkeys([bus.module, "__main__", *sys.modules]):
        module = sys.modules.get(module_name)
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is bus and attribute.isidentifier():
                if module_name == "__main__":
                    return _main(attribute)
                return _described("module", module_name, attribute, sys.path)
    raise BusNotImportable(
        f"no module has a name for Bus {bus.name!r}: workers import it, so assign it at the top of a module"
    )


def mapped_settings(name: str, timeout: float | None, attempts: int) -> MappedSettings:
    """Of the listener that a function of this name becomes. Raises UsageError."""
    try:
        listener = check_name(name, "listener")
    except UsageError:
        listener = "map"
    return MappedSettings(listener, check_timeout(timeout, "map"), check_attempts(attempts, "map"))


def parse_function_spec(spec: str, settings: MappedSettings) -> AppSpec:
    """The function that `module:function` names, where `function` may be dotted, such as `Parser.parse`.
    Raises BusNotImportable for another form. The module is not imported here.
    """
    module, _, path = spec.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *path.split(".")]):
        raise BusNotImportable(f"{spec!r} is not module:function, such as math:sqrt")
    found = _described("module", module, path, [os.getcwd(), *sys.path])
    return msgspec.structs.replace(found, mapped=settings)


def function_spec(function: Callable[..., Any], settings: MappedSettings) -> AppSpec:
    """Where another process finds a function of this one; or the function itself, for one that it would not
    find: a lambda, a function inside another one, a method of an object, or one that was made at a prompt or
    in a notebook. Raises UsageError for what is no function, or cannot be sent.
    """
    if not callable(function):
        raise UsageError(f"{function!r:.100} is not a function")
    holder = getattr(function, "__objclass__", None) or function  # of `str.upper`, str says it
    module_name = str(getattr(holder, "__module__", None) or "builtins")
    path = str(getattr(function, "__qualname__", None) or getattr(function, "__name__", ""))
    if not is_found(function, module_name, path):
        return _by_value(function, module_name, path or type(function).__qualname__, settings)
    of_main = module_name in ("__main__", "__mp_main__")
    try:
        spec = _main(path) if of_main else _described("module", module_name, path, sys.path)
    except BusNotImportable:
        return _by_value(function, module_name, path, settings)
    is_main = of_main and spec.kind == "module"
    return msgspec.structs.replace(spec, mapped=msgspec.structs.replace(settings, is_main=is_main))


def is_found(value: object, module_name: str, path: str) -> bool:
    """Whether a module of this process has it under this name, which may be dotted."""
    found: Any = sys.modules.get(module_name)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found is value


def _by_value(function: Callable[..., Any], module: str, path: str, settings: MappedSettings) -> AppSpec:
    by_value: Any = importlib.import_module("durable_bus.app.by_value")  # 10 ms, which others do without
    data = by_value.function_pickle(function, path)
    spec = _of_main(_described("pickle", module, path, sys.path))
    return msgspec.structs.replace(spec, mapped=settings, pickle=data)


def known_as(function: Callable[..., Any], spec: AppSpec) -> str:
    """What the default id of its buffers is made of: where it is found; of one that is sent, what it does."""
    if spec.pickle is None:
        return spec.name
    by_value: Any = importlib.import_module("durable_bus.app.by_value")
    return f"{spec.name}:{by_value.identity(function, spec.pickle)}"


def _described(
    kind: Literal["module", "path", "pickle"], value: str, attribute: str, folders: list[str]
) -> AppSpec:
    """Whoever imports it may start in another folder, so the folders become absolute."""
    return AppSpec(kind, value, attribute, list(dict.fromkeys(map(os.path.abspath, folders))))


def _main(attribute: str) -> AppSpec:
    """How to import what this process runs as `__main__`: by name for `python -m name`, else by its file."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return _of_main(_described("module", str(spec.name), attribute, sys.path))
    path = getattr(main, "__file__", None)
    if path is None or not os.path.isfile(path):
        raise BusNotImportable(
            f"Bus {attribute!r} was made at a prompt, in a notebook, from stdin or with -c, where no worker "
            "can import it: put it into a file (in a notebook with %%writefile)"
        )
    return _of_main(_described("path", os.path.abspath(path), attribute, sys.path))


def _of_main(spec: AppSpec) -> AppSpec:
    """As with multiprocessing, a script finds its arguments in its workers, too."""
    return msgspec.structs.replace(spec, argv=list(map(str, getattr(sys, "argv", []))))


def load_app(app: AppSpec) -> "Bus":
    """Import the Bus that an AppSpec describes; of a function, make one. It is for a fresh process, whose
    `sys.path` becomes the app's.

    A script becomes the `__main__` of this process, and so does a module that was run with `python -m`, for
    its functions. As with multiprocessing's spawn it runs under the name `__mp_main__`, so that what stands
    under `if __name__ == "__main__":` does not run again.

    Raises BusNotImportable, one line, with the type and message of what the app raised.
    """
    from durable_bus.app.bus import Bus  # 20 ms, which a command does not need to name an app

    sys.path[:] = app.sys_path
    if app.argv is not None:
        sys.argv = app.argv
    found = _imported(app) if app.pickle is None else _sent(app.pickle, app.attribute)
    if app.mapped is not None:
        if not callable(found):
            raise BusNotImportable(f"{app.name} is a {type(found).__name__}, not a function")
        mapped: Any = importlib.import_module("durable_bus.app.mapped")  # only here: others do without
        bus: Bus = mapped.bus_of(found, app.mapped)
        return bus
    if not isinstance(found, Bus):
        raise BusNotImportable(f"{app.name} is a {type(found).__name__}, not a Bus")
    return found


def _imported(app: AppSpec) -> Any:
    kind, where = app.kind, app.value
    try:
        if kind == "module" and not (app.mapped and app.mapped.is_main):
            module = importlib.import_module(where)
        else:
            module = _run_main(where, kind)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if kind == "module" and (where == missing or where.startswith(missing + ".")):
            raise BusNotImportable(f"no module named {missing}") from None
        raise BusNotImportable(f"importing {where} failed: {said(error)}") from error
    except (Exception, SystemExit) as error:
        raise BusNotImportable(f"importing {where} failed: {type(error).__name__}: {said(error)}") from error
    found: Any = module
    for part in app.attribute.split("."):
        if not hasattr(found, part):
            raise BusNotImportable(f"{where} has no attribute {app.attribute}")
        found = getattr(found, part)
    return found


def _sent(data: bytes, name: str) -> Any:
    by_value: Any = importlib.import_module("durable_bus.app.by_value")  # only here, as above
    try:
        return by_value.loaded(data)
    except (Exception, SystemExit) as error:
        raise BusNotImportable(f"loading {name} failed: {type(error).__name__}: {said(error)}") from error


def _run_main(where: str, kind: str) -> types.ModuleType:
    module = types.ModuleType("__mp_main__")
    if kind == "path":
        module.__dict__.update(runpy.run_path(where, run_name="__mp_main__"))
    else:
        module.__dict__.update(runpy.run_module(where, run_name="__mp_main__", alter_sys=True))
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    return module
