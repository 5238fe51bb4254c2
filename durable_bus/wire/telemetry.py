"""Spans for OpenTelemetry: `send LISTENER` around each start of a buffer, and `process LISTENER` around each
dispatch in a worker, linked to the span that the buffer was started in.

Only this file imports opentelemetry, and only where spans can come of it: in a process that has imported
`opentelemetry.trace`, as everybody has who sets a TracerProvider or makes a span, or that has the variable
OTEL_PYTHON_TRACER_PROVIDER, by which the api finds a provider itself. It is looked at again each time: a
handler may set the provider at its first item. That a buffer's start was traced is no reason to import it. A
worker without a provider would wait for the import, 14 ms, and make no span all the same.

A span holds names, numbers and ids, never what is in a payload. So an exception is told of by its class only:
its message may quote a payload. What goes wrong in here is printed once, and costs nobody an item.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from msgspec.structs import replace

from durable_bus.payloads.outcomes import Outcome, Start

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from durable_bus.wire.work import WorkItems

__all__ = ["Processing", "Sending", "has_sdk", "processing"]

_MODULE = "opentelemetry.trace"
_SDK_MODULE = "opentelemetry.sdk.trace"
_PROVIDER_IS_NAMED = "OTEL_PYTHON_TRACER_PROVIDER" in os.environ
"""Looked at once: a look takes 1.4 us, and a dispatch of one item 16."""
_HEADER = "traceparent"

Self = TypeVar("Self")
Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")
Passed = TypeVar("Passed", bound=Outcome)


@functools.cache
def _print_once() -> None:
    error = sys.exc_info()[1]
    with contextlib.suppress(OSError, ValueError):  # nobody reads what we print
        try:
            traceback.print_exc()
        except Exception:
            # Python 3.15 looks for the module that an ImportError names, and may raise that once more.
            sys.stderr.write(f"{type(error).__name__}: {error}\n")


def _harmless(
    method: Callable[Concatenate[Self, Arguments], Value],
) -> Callable[Concatenate[Self, Arguments], Value | None]:
    """A method that calls what a user has configured, such as a span processor. It never raises."""

    def guarded(self: Self, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Value | None:
        try:
            return method(self, *args, **kwargs)
        except Exception:
            _print_once()
            return None

    return guarded


@functools.cache
def _tracer() -> Tracer | None:
    """Ours, also of a provider that is set later. None: the variable is set, and the api is not there."""
    try:
        from opentelemetry.trace import get_tracer

        from durable_bus import __version__

        return get_tracer("durable_bus", __version__)
    except Exception:
        _print_once()
        return None


class _Traced:
    """What a client and a worker do with a span of theirs. One that nobody records is none: None."""

    def __init__(self) -> None:
        self._span: Span | None = None
        self._context: Context | None = None
        """In which the span is the current one."""

    @_harmless
    def _begin(
        self,
        kind: str,
        listener: str,
        buffer_id: str,
        attributes: dict[str, Any],
        *,
        linked_to: str | None = None,
        is_root: bool = False,
    ) -> None:
        tracer = _tracer()
        if tracer is None:
            return
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, set_span_in_context

        operation = "send" if kind == "PRODUCER" else "process"
        around = Context() if is_root else None
        span = tracer.start_span(
            f"{operation} {listener}",
            around,
            SpanKind[kind],
            {
                "messaging.system": "durable_bus",
                "messaging.operation.type": operation,
                "messaging.operation.name": operation,
                "messaging.destination.name": listener,
                "durable_bus.buffer.id": buffer_id,
                **attributes,
            },
            _links(linked_to),
        )
        if span.get_span_context().is_valid:
            self._span, self._context = span, set_span_in_context(span, around)

    @property
    def traceparent(self) -> str | None:
        """The span, as W3C's header says it."""
        return self._header()

    @_harmless
    def _header(self) -> str | None:
        if self._context is None:
            return None
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, self._context)
        return carrier.get(_HEADER)

    @_harmless
    def attach(self) -> object:
        """Make the span the current one; what `_detach` needs."""
        if self._context is None:
            return None
        from opentelemetry.context import attach

        return attach(self._context)

    @_harmless
    def _detach(self, token: Any) -> None:
        if token is not None:
            from opentelemetry.context import detach

            detach(token)

    @_harmless
    def _end(self, error_type: str | None, attributes: dict[str, Any]) -> None:
        if self._span is None:
            return
        self._span.set_attributes(attributes)
        if error_type is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_attribute("error.type", error_type)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
        self._span = None


def _links(traceparent: str | None) -> Any:
    """To the span of a header; none to what is no header."""
    if traceparent is None:
        return None
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    found = TraceContextTextMapPropagator().extract({_HEADER: traceparent}, Context())
    there = get_current_span(found).get_span_context()
    return [Link(there)] if there.is_valid else None


def _may_trace() -> bool:
    return _MODULE in sys.modules or _PROVIDER_IS_NAMED


def _is_provider_set() -> bool:
    """The api is there; without an SDK it would make a span that is none, in 22 us."""
    try:
        from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider

        return not isinstance(get_tracer_provider(), ProxyTracerProvider)
    except Exception:
        _print_once()
        return False


def has_sdk() -> bool:
    """Whether this process may have spans that are not exported yet, as a batch processor keeps them."""
    return _SDK_MODULE in sys.modules


class Sending(_Traced):
    """The span in which a client starts a buffer: the current one, as long as the `with` block runs."""

    def __init__(self, listener: str, buffer_id: str) -> None:
        super().__init__()
        self._attributes: dict[str, Any] = {}
        if _may_trace():
            self._begin("PRODUCER", listener, buffer_id, {})

    def sent(self, total: int, *, existed: bool) -> None:
        """All of it is on disk. `existed`: it was before, and the span of its first start is kept."""
        self._attributes = {"messaging.batch.message_count": total, "durable_bus.buffer.existed": existed}

    def __enter__(self) -> Sending:
        self._token = self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach(self._token)
        self._end(None if kind is None else kind.__name__, self._attributes)


class Processing(_Traced):
    """The span of a dispatch in a worker, from its first item on until the last one has its outcome."""

    def __init__(self, work: WorkItems) -> None:
        super().__init__()
        self._pid = os.getpid()
        self._failed = 0
        self._error_type: str | None = None
        attributes = {"durable_bus.items.first_index": work.first, "durable_bus.attempt": work.attempt}
        self._begin(
            "CONSUMER", work.listener, work.buffer_id, attributes, linked_to=work.traceparent, is_root=True
        )

    @property
    def is_there(self) -> bool:
        return self._span is not None

    @_harmless
    def failed(self, index: int, kind: str, error: BaseException | None = None) -> None:
        """The attempt at an item came to nothing. One that comes back by RetryAfter has not failed.

        `kind`: as in the view `failures`, or `answered`: its handler has answered a failure.
        """
        if self._span is None or kind == "retry_after":
            return
        error_type = type(error).__name__ if kind == "exception" else kind
        self._failed += 1
        self._error_type = self._error_type or error_type
        self._span.add_event("item failed", {"durable_bus.item.index": index, "error.type": error_type})

    def __enter__(self) -> None:
        self._token = self.attach()

    def __exit__(self, *_: object) -> None:
        self._detach(self._token)

    def carried_by(self, outcome: Passed) -> Passed:
        """The start of a buffer, with this span as that which it was started in."""
        return replace(outcome, traceparent=self.traceparent) if isinstance(outcome, Start) else outcome

    def end(self, begun: int) -> None:
        """So many of its items have begun: the others went back."""
        if os.getpid() == self._pid:  # a handler's forked child has not made this span
            self._end(
                self._error_type,
                {"messaging.batch.message_count": begun, "durable_bus.items.failed": self._failed},
            )


def processing(work: WorkItems) -> Processing | None:
    """The span of a dispatch whose first item begins now; None where nobody records it."""
    if not _may_trace() or not _is_provider_set():
        return None
    span = Processing(work)
    return span if span.is_there else None
