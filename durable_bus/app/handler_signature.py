"""What a handler's signature says: sync or async, how its payload arrives, whether it wants the metadata."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

from lxml import etree

from durable_bus.errors import UsageError
from durable_bus.payloads.answer_types import check_answer
from durable_bus.payloads.messages import HandlerMetadata

__all__ = ["UNANNOTATED", "check_answer_of", "is_async", "resolved", "signature"]

UNANNOTATED: Final = inspect.Parameter.empty
"""In the place of an annotation that is not there."""

# As written where the import is for type checkers only.
_ELEMENT_NAMES: Final = ("_Element", "etree._Element", "lxml.etree._Element")
_METADATA_NAMES: Final = ("HandlerMetadata", "durable_bus.HandlerMetadata", "messages.HandlerMetadata")


def _called(handler: Any) -> Any:
    """What runs when the handler is called: through partials and `__call__`, to the function."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not (inspect.isroutine(handler) or inspect.isclass(handler)):
        handler = getattr(handler, "__call__", handler)  # noqa: B004  not a test whether it is callable
    return handler


def is_async(name: str, handler: Any) -> bool:
    """Whether the handler of listener `name` is a coroutine function. Raises UsageError for no handler.

    A wrapper is what it is itself, since it is what will be called: `asyncio.run` around an `async def` is
    sync.
    """
    if not callable(handler) or inspect.isclass(handler):
        raise UsageError(f"listener {name}: {handler!r:.100} is not a function")
    function = _called(handler)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"listener {name}: a handler returns its answer, it does not yield")
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(function)


def signature(name: str, handler: Callable[..., Any], local_names: Mapping[str, Any]) -> tuple[Any, bool]:
    """The payload's annotation, a str where it cannot be resolved yet, UNANNOTATED where there is none; and
    whether the metadata is wanted.

    Raises UsageError for parameters that nobody would fill.
    """
    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError) as error:
        raise UsageError(f"listener {name}: its parameters cannot be seen: {error}") from None
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not positional and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise UsageError(f"listener {name}: its handler takes no payload")
    takes_metadata = len(positional) > 1 and _is_metadata(positional[1], handler, local_names)
    keyword_only = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    for parameter in positional[2 if takes_metadata else 1 :] + keyword_only:
        if parameter.default is parameter.empty:
            raise UsageError(
                f"listener {name}: nobody fills its parameter {parameter.name}; a handler takes the payload, "
                "and second, if it wants it, metadata: HandlerMetadata"
            )
    if not positional or positional[0].annotation is inspect.Parameter.empty:
        return UNANNOTATED, takes_metadata
    raw = positional[0].annotation
    try:
        return resolved(raw, handler, local_names), takes_metadata
    except NameError:
        return raw, takes_metadata
    except UsageError as error:
        raise UsageError(f"listener {name}: {error}") from None


def _is_metadata(parameter: inspect.Parameter, handler: Any, local_names: Mapping[str, Any]) -> bool:
    if parameter.name == "metadata" or parameter.annotation in _METADATA_NAMES:
        return True
    try:
        return resolved(parameter.annotation, handler, local_names) is HandlerMetadata
    except (NameError, UsageError):
        return False


def check_answer_of(name: str, handler: Any, local_names: Mapping[str, Any]) -> None:
    """Raise UsageError for a return annotation that promises what no bus could write. One that cannot be
    resolved is nobody's business.
    """
    try:
        raw = getattr(inspect.unwrap(_called(handler)), "__annotations__", {}).get("return")
        check_answer(resolved(raw, handler, local_names))
    except NameError:
        return
    except UsageError as error:
        raise UsageError(f"listener {name}: {error}") from None


def resolved(annotation: Any, handler: Any, local_names: Mapping[str, Any]) -> Any:
    """The annotation itself, from the text that `from __future__ import annotations` makes of it.

    Raises NameError when a name in it is not there (yet), UsageError when it is no type expression.
    """
    if not isinstance(annotation, str):
        return annotation
    holder = types.SimpleNamespace(__annotations__={"payload": annotation})
    # Of the function that decorators have wrapped: its annotations were written there.
    names = getattr(inspect.unwrap(_called(handler)), "__globals__", {})
    try:
        return typing.get_type_hints(holder, names, dict(local_names))["payload"]
    except NameError:
        if annotation in _ELEMENT_NAMES:
            return etree._Element
        raise
    except Exception as error:
        raise UsageError(f"{annotation!r:.200} is no type: {type(error).__name__}: {error}") from None
