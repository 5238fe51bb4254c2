"""Handlers that are traced, when the variable TRACES names a file for the spans; else no SDK is there.

Spans are JSON lines, written as each ends, so that a test reads them whatever is killed later.
"""

import os
import signal
import sys
import time

from durable_bus import BufferStart, Bus, HandlerMetadata, HandlerResponse, Huh, RetryAfter, Text

bus = Bus("traced")

if "TRACES" in os.environ:
    import json
    from collections.abc import Sequence

    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        SimpleSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

    class Lines(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            lines = "".join(
                f"{json.dumps({**json.loads(span.to_json()), 'pid': os.getpid()})}\n" for span in spans
            )
            with open(os.environ["TRACES"], "a") as file:
                file.write(lines)
            return SpanExportResult.SUCCESS

    class Broken(SimpleSpanProcessor):
        def on_start(self, *_: object, **__: object) -> None:
            raise RuntimeError("a span processor that raises")

    class Fatal(SimpleSpanProcessor):
        """An export during which the worker is killed, once."""

        def on_end(self, span: ReadableSpan) -> None:
            if span.name.startswith("process") and not os.path.exists(os.environ["FATAL"]):
                open(os.environ["FATAL"], "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            super().on_end(span)

    provider = TracerProvider(sampler=ALWAYS_OFF if "SAMPLED_OUT" in os.environ else ALWAYS_ON)
    if "BATCHED" in os.environ:
        provider.add_span_processor(BatchSpanProcessor(Lines(), schedule_delay_millis=600_000))
    else:
        kind = Broken if "BROKEN" in os.environ else Fatal if "FATAL" in os.environ else SimpleSpanProcessor
        provider.add_span_processor(kind(Lines()))
    trace.set_tracer_provider(provider)


def inside(name: str) -> str:
    """A span of the handler's own, as an instrumented library makes one; the trace that it is in."""
    if "TRACES" not in os.environ:
        return ""
    with trace.get_tracer("app").start_as_current_span(f"inside {name}") as span:
        return format(span.get_span_context().trace_id, "032x")


def act(word: str, attempt: int) -> object:
    if word == "raise" or (word == "once" and attempt == 1):
        raise ValueError(f"a secret of {word}")
    if word == "huh":
        return Huh("a secret that it cannot say")
    if word == "later" and attempt == 1 and not os.path.exists("later"):
        open("later", "w").close()
        raise RetryAfter(0.01)
    if word.startswith("/"):
        while not os.path.exists(word):
            time.sleep(0.005)
    if word == "fork" and os.fork() == 0:
        return None
    if word == "fan":
        start = BufferStart("work", [Text("one"), Text("two")], buffer_id="nested")
        return HandlerResponse(start, to="system.buffer")
    return Text(inside(word) or word)


@bus.listener("work", attempts=2)
def work(word: str, metadata: HandlerMetadata) -> object:
    """The word says what is to be done."""
    return word and act(word, metadata.attempt)


@bus.listener("collects")
def collects(complete: str) -> str:
    return "done"


@bus.listener("imported")
def imported(word: str) -> str:
    """Whether this worker has imported the api."""
    return str("opentelemetry" in sys.modules)
