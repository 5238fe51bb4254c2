"""`--config FILE`: options of a command in a TOML file, each by its long name, and its argument, too.

What the command line or a variable says goes before the file. A path in the file is relative to the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from durable_bus.errors import UsageError, said

__all__ = ["config_option"]


def config_option(command: Any) -> Any:
    """`--config FILE`. The command's `config` is its path."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        is_eager=True,
        callback=_read,
        help="Read options from a TOML file, by their long names, and app = 'module:attribute'. What the "
        "command line or a variable says goes before it. Paths in it are relative to the file. It is read "
        "once: SIGHUP does not read it again.",
    )(command)


def _read(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """What the file says becomes the command's defaults. Raises UsageError, which names file and key."""
    if path is None or context.resilient_parsing:
        return path
    import tomllib  # only here: most are told everything on the command line

    try:
        with open(path, "rb") as file:
            given = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # no TOML, or no UTF-8
        raise UsageError(f"{path}: {said(error)}") from None
    context.default_map = {**(context.default_map or {}), **_defaults(context, path, given)}
    return path


def _defaults(context: click.Context, path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    known = {_key(parameter): parameter for parameter in context.command.params}
    del known["config"]
    defaults = {}
    for key, value in given.items():
        if key not in known:
            raise UsageError(f"{path}: unknown key {key!r}; there are {', '.join(sorted(known))}")
        parameter = known[key]
        wanted, kinds = _wanted(parameter.type)
        if type(value) not in kinds:
            raise UsageError(f"{path}: {key} is {value!r:.100}, and {wanted} is wanted")
        if isinstance(parameter.type, click.Path):
            value = str(path.parent / value)
        try:
            parameter.type.convert(value, parameter, context)
        except click.BadParameter as error:
            raise UsageError(f"{path}: {key}: {error.message.rstrip('.')}") from None
        assert parameter.name is not None
        defaults[parameter.name] = value
    return defaults


def _key(parameter: click.Parameter) -> str:
    """Its name in the file: `max-items-per-worker`."""
    return max(parameter.opts, key=len).removeprefix("--")


def _wanted(kind: click.ParamType[Any]) -> tuple[str, tuple[type, ...]]:
    """In words, and as the types that TOML's values have. True is none of the numbers."""
    if isinstance(kind, click.types.IntParamType):
        return "a whole number", (int,)
    if isinstance(kind, click.types.FloatParamType):
        return "a number", (int, float)
    return "a text", (str,)
