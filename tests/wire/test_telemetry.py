"""Spans: who sends is known to who processes, whatever was killed in between; and who traces nothing pays
nothing.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from imports import modules_after
from services import Raw, Service
from support import Facts, environment, outcome, program, until

from durable_bus.journal.admin.check import check

pytestmark = pytest.mark.real_start

pytest.importorskip("opentelemetry.sdk.trace")

OF_A_START = {"buffer_id": "b", "target": "work", "collect": True}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
START = """
import sys
from apps import traced, {app}
from opentelemetry import trace

def started(client):
    with trace.get_tracer("test").start_as_current_span("around"):
        return client.start({target!r}, {items!r}, buffer_id={buffer_id!r})
"""
RUNNING = """
if __name__ == "__main__":
    with {app}.bus.running(sys.argv[1], **{options!r}) as client:
        started(client).wait(60)
"""
TO_A_DAEMON = """
from durable_bus import Client
with Client(sys.argv[1]) as client:
    started(client)
"""


class Traces:
    """A folder with a journal, and the file of the spans that its client and workers have made."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.journal = folder, folder / "spans", folder / "journal.db"
        self.facts = Facts(self.journal)
        self.variables = {"TRACES": str(self.path)}

    def spans(self, name: str = "") -> list[dict[str, Any]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [span for span in map(json.loads, lines) if name in ("", span["name"])]

    def one(self, name: str) -> dict[str, Any]:
        (span,) = self.spans(name)
        return span

    def traceparents(self) -> dict[str, str | None]:
        """What is kept of each buffer, without its flags."""
        sql = "SELECT buffer_id, substr(traceparent, 1, 52) FROM buffers"
        return dict(self.facts.rows(sql))

    def started(
        self,
        *items: str,
        target: str = "work",
        app: str = "traced",
        buffer_id: str = "b",
        how: str = RUNNING,
        options: dict[str, Any] | None = None,
        **variables: str,
    ) -> None:
        """By a program that traces."""
        source = (START + how).format(
            app=app, target=target, items=[*items], buffer_id=buffer_id, options=options or {"workers": 1}
        )
        ran = program(self.folder / "client.py", source, str(self.journal), **{**self.variables, **variables})
        code, out, err = outcome(ran)
        assert (code, out) == (0, ""), err
        assert "BROKEN" in variables or err == ""


@pytest.fixture
def traces(tmp_path: Path) -> Traces:
    return Traces(tmp_path)


def header_of(span: dict[str, Any]) -> str:
    """Without the flags, which newer SDKs have more of."""
    context = span["context"]
    return f"00-{context['trace_id'][2:]}-{context['span_id'][2:]}"


def links_of(span: dict[str, Any]) -> list[str]:
    return [header_of(link) for link in span["links"]]


def test_a_dispatch_is_linked_to_the_span_that_sent_its_buffer(traces: Traces) -> None:
    traces.started("a", "b", "c")
    around, send = traces.one("around"), traces.one("send work")
    assert (send["kind"], send["parent_id"]) == ("SpanKind.PRODUCER", around["context"]["span_id"])
    assert send["attributes"] == {
        "messaging.system": "durable_bus",
        "messaging.operation.type": "send",
        "messaging.operation.name": "send",
        "messaging.destination.name": "work",
        "messaging.batch.message_count": 3,
        "durable_bus.buffer.id": "b",
        "durable_bus.buffer.existed": False,
    }
    assert traces.traceparents() == {"b": header_of(send)}
    processed = traces.spans("process work")
    dispatches = traces.facts.rows("SELECT first_index, item_count FROM dispatches WHERE ended = 'answered'")
    found = []
    for span in processed:
        attributes = span["attributes"]
        found.append(
            (attributes["durable_bus.items.first_index"], attributes["messaging.batch.message_count"])
        )
        assert (span["kind"], span["parent_id"]) == ("SpanKind.CONSUMER", None)
        assert links_of(span) == [header_of(send)]
        assert span["context"]["trace_id"] != send["context"]["trace_id"]
        assert span["status"] == {"status_code": "UNSET"}
        assert attributes["durable_bus.attempt"] == 1
        assert attributes["durable_bus.items.failed"] == 0
        assert attributes["durable_bus.buffer.id"] == "b"
        assert (attributes["messaging.operation.type"], attributes["messaging.destination.name"]) == (
            "process",
            "work",
        )
    assert sorted(found) == sorted(dispatches)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("app", "target", "options"),
    [
        ("traced", "work", {"workers": 1}),
        ("traced_async", "work", {"workers": 1}),
        ("traced_async", "sync", {"workers": 1}),
        ("traced", "work", {"engine": "process:2"}),
        ("traced_async", "work", {"engine": "process:2"}),
    ],
)
def test_what_a_handler_traces_is_inside_the_span_of_its_dispatch(
    traces: Traces, app: str, target: str, options: dict[str, Any]
) -> None:
    traces.started(*"abcdefgh", app=app, target=target, options=options)
    send = traces.one("send " + target)
    processed = {span["context"]["span_id"]: span for span in traces.spans(f"process {target}")}
    assert sum(one["attributes"]["messaging.batch.message_count"] for one in processed.values()) == 8
    assert {tuple(links_of(one)) for one in processed.values()} == {(header_of(send),)}
    for word in "abcdefgh":
        inside = traces.one(f"inside {word}")
        around = processed[inside["parent_id"]]
        assert inside["context"]["trace_id"] == around["context"]["trace_id"]
        assert around["start_time"] <= inside["start_time"] <= inside["end_time"] <= around["end_time"]
        assert inside["pid"] == around["pid"] != send["pid"]
    answers = traces.facts.rows("SELECT payload FROM results ORDER BY item_index")
    assert [f"0x{payload}" for (payload,) in answers] == [
        traces.one(f"inside {word}")["context"]["trace_id"] for word in "abcdefgh"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("app", ["traced", "traced_async"])
def test_what_fails_is_an_error_of_its_attempt_and_says_nothing_of_a_payload(
    traces: Traces, app: str
) -> None:
    traces.started("once", "raise", "huh", "later", "fine", app=app)
    seen = set()
    for span in traces.spans("process work"):
        attributes = span["attributes"]
        failed = [event["attributes"] for event in span["events"]]
        assert {event["name"] for event in span["events"]} <= {"item failed"}
        assert attributes["durable_bus.items.failed"] == len(failed)
        assert span["status"] == {"status_code": "ERROR" if failed else "UNSET"}
        assert attributes.get("error.type") == (failed[0]["error.type"] if failed else None)
        seen |= {
            (event["durable_bus.item.index"], attributes["durable_bus.attempt"], event["error.type"])
            for event in failed
        }
    assert seen == {(0, 1, "ValueError"), (1, 1, "ValueError"), (1, 2, "ValueError"), (2, 1, "answered")}
    assert traces.facts.rows("SELECT success FROM results ORDER BY item_index") == [
        (1,), (0,), (0,), (1,), (1,)
    ]  # fmt: skip
    ours = [span for span in traces.spans() if not span["name"].startswith("inside")]
    assert "secret" not in json.dumps(ours)


@pytest.mark.slow
def test_an_async_item_that_is_late_has_failed_by_its_time(traces: Traces) -> None:
    traces.started("sleep", "fine", app="traced_async", target="late")
    failed = [event["attributes"] for span in traces.spans("process late") for event in span["events"]]
    assert failed == [{"durable_bus.item.index": 0, "error.type": "timeout"}]


@pytest.mark.slow
def test_links_survive_a_killed_daemon(traces: Traces) -> None:
    gate = traces.folder / "gate"
    with Service(traces.journal, "apps.traced:bus", variables=traces.variables) as service:
        traces.started(str(gate), "other", how=TO_A_DAEMON)
        send = traces.one("send work")
        traces.facts.until("SELECT count(*) FROM in_flight")
        service.restart()
        service.until_serving()
        gate.touch()
        traces.facts.until("SELECT state = 'complete' FROM buffers")
        until(lambda: traces.spans(f"inside {gate}"), "the item that was interrupted is traced")
        inside = traces.one(f"inside {gate}")
        until(
            lambda: [span for span in traces.spans("process work") if span["pid"] == inside["pid"]],
            "its dispatch is traced",
        )
    assert traces.facts.value("SELECT count(*) FROM runs") == 2
    for span in traces.spans("process work"):
        assert links_of(span) == [header_of(send)]
    assert check(traces.journal).ok


@pytest.mark.slow
def test_a_buffer_that_a_handler_starts_is_linked_to_the_handlers_dispatch(traces: Traces) -> None:
    traces.started("fan", buffer_id="outer", how=RUNNING.replace("wait(60)", NESTED))
    rows = traces.traceparents()
    outer = [
        one for one in traces.spans("process work") if one["attributes"]["durable_bus.buffer.id"] == "outer"
    ]
    assert rows == {"outer": header_of(traces.one("send work")), "nested": header_of(outer[0])}
    nested = [one for one in traces.spans("process work") if one not in outer]
    assert {tuple(links_of(one)) for one in nested} == {(rows["nested"],)}


@pytest.mark.slow
def test_a_repeated_start_keeps_the_first_ones_span(traces: Traces) -> None:
    traces.started("a")
    first = traces.traceparents()["b"]
    traces.started("a")
    sent = traces.spans("send work")
    assert [span["attributes"]["durable_bus.buffer.existed"] for span in sent] == [False, True]
    assert [header_of(span) == first for span in sent] == [True, False]
    assert traces.traceparents() == {"b": first}


@pytest.mark.slow
def test_a_refused_start_is_an_error(traces: Traces) -> None:
    with pytest.raises(AssertionError, match="unknown target"):
        traces.started("a", target="nobody")
    send = traces.one("send nobody")
    assert (send["status"], send["attributes"]["error.type"]) == ({"status_code": "ERROR"}, "BufferError")


NESTED = "wait(60)\n        client.buffer('nested').wait(60)"  # the outer one waits for the nested one
STREAM_AND_MAP = """
import sys
import durable_bus
from apps import traced

if __name__ == "__main__":
    with traced.bus.running(sys.argv[1], workers=1) as client:
        with client.stream("work", buffer_id="stream") as stream:
            stream.put("a")
        stream.wait(60)
    assert list(durable_bus.map(len, ["abc", "d"], journal=sys.argv[1], workers=1, buffer_id="map")) == [3, 1]
"""


@pytest.mark.slow
def test_a_stream_and_a_map_are_sent_too(traces: Traces) -> None:
    ran = program(traces.folder / "both.py", STREAM_AND_MAP, str(traces.journal), **traces.variables)
    assert outcome(ran) == (0, "", "")
    rows = traces.traceparents()
    assert rows == {"stream": header_of(traces.one("send work")), "map": header_of(traces.one("send len"))}


@pytest.mark.slow
def test_a_client_that_only_hands_on_a_trace_needs_no_sdk(traces: Traces) -> None:
    source = f"""
import sys
from apps import traced
from opentelemetry import context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if __name__ == "__main__":
    context.attach(TraceContextTextMapPropagator().extract({{"traceparent": "{PARENT}"}}))
    with traced.bus.running(sys.argv[1], workers=1) as client:
        client.start("imported", ["a"]).wait(60)
"""
    assert outcome(program(traces.folder / "client.py", source, str(traces.journal))) == (0, "", "")
    assert traces.facts.value("SELECT traceparent FROM buffers") == PARENT
    assert traces.facts.value("SELECT payload FROM results") == "False", "the worker did not import the api"


@pytest.mark.slow
def test_who_does_not_trace_has_no_spans_and_keeps_the_traces_of_others(traces: Traces) -> None:
    """A nested buffer has the outer one's, as its worker has none of its own."""
    with Service(traces.journal, "apps.traced:bus") as service, Raw(traces.journal) as raw:
        raw.hello()
        submit = {**OF_A_START, "buffer_id": "raw", "traceparent": PARENT}
        told = raw.ask("submit", b"fan\0", **submit, count=1, forms="0", digest="d")
        assert told["k"] == "opened", told
        with service.client() as client:
            client.start("imported", ["a"], buffer_id="untraced").wait(60)
            traces.facts.until("SELECT count(*) = 1 FROM buffers WHERE buffer_id = 'nested'")
            client.buffer("nested").wait(60)
    rows = dict(traces.facts.rows("SELECT buffer_id, traceparent FROM buffers"))
    assert rows == {"raw": PARENT, "nested": PARENT, "untraced": None}
    assert traces.facts.value("SELECT payload FROM results WHERE buffer_id = 'untraced'") == "False"
    assert traces.spans() == []


@pytest.mark.slow
def test_what_is_not_sampled_is_handed_on_as_that(traces: Traces) -> None:
    traces.started("a", SAMPLED_OUT="1")
    assert traces.spans() == []
    assert int(traces.facts.value("SELECT traceparent FROM buffers")[-2:], 16) & 1 == 0
    assert traces.facts.value("SELECT success FROM results") == 1


@pytest.mark.slow
def test_a_span_processor_that_raises_costs_no_item(traces: Traces) -> None:
    source = (
        (START + RUNNING)
        .replace('with trace.get_tracer("test").start_as_current_span("around"):', "if True:")
        .format(app="traced", target="collects", items=["a", "b"], buffer_id="b", options={"workers": 1})
    )
    ran = program(traces.folder / "client.py", source, str(traces.journal), **traces.variables, BROKEN="1")
    code, _, err = outcome(ran)
    assert code == 0, err
    raised = "RuntimeError: a span processor that raises"
    assert err.count(raised) == 2, "once by the client, once by the worker"
    assert traces.facts.value("SELECT successful FROM buffers") == 2


@pytest.mark.slow
@pytest.mark.parametrize("app", ["traced", "traced_async"])
def test_a_worker_that_ends_exports_what_it_still_has(traces: Traces, app: str) -> None:
    traces.started("a", "b", app=app, BATCHED="1")
    spans = traces.spans("process work")
    assert sum(span["attributes"]["messaging.batch.message_count"] for span in spans) == 2
    assert {tuple(links_of(span)) for span in spans} == {(header_of(traces.one("send work")),)}


@pytest.mark.slow
def test_a_handler_that_forks_has_one_span(traces: Traces) -> None:
    traces.started("fork", "a")
    spans = traces.spans("process work")
    assert len({span["context"]["span_id"] for span in spans}) == len(spans)
    assert sum(span["attributes"]["messaging.batch.message_count"] for span in spans) == 2


GARBAGE = [
    "", "x", PARENT.upper(), PARENT[:-1], PARENT + "0", PARENT + "\n", PARENT.replace("00-", "01-", 1),
    f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
    PARENT.replace("-b", "b-"), "'; DROP TABLE buffer; --", 5,
]  # fmt: skip


def test_a_header_that_is_none_is_refused_and_ends_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    with Service(journal, "apps.traced:bus", workers=1) as service, Raw(journal) as raw:
        raw.hello()
        for garbage in GARBAGE:
            for kind, more in (("start", {}), ("submit", {"count": 1, "forms": "0", "digest": "d"})):
                told = raw.ask(kind, b"x\0", **OF_A_START, **more, traceparent=garbage)
                assert (told["k"], told["type"]) == ("error", "UsageError"), garbage
                assert "`$.traceparent`" in told["message"]
        assert service.facts.rows("SELECT * FROM buffers") == []
        assert service.process.poll() is None


@pytest.mark.slow
def test_neither_a_client_nor_a_worker_imports_opentelemetry_by_itself() -> None:
    for module in ("durable_bus", "durable_bus.worker.process", "durable_bus.worker.async_runner"):
        loaded = modules_after(f"import {module}; from durable_bus import Client, map")
        assert not [name for name in loaded if name.startswith("opentelemetry")]


def test_a_variable_that_names_a_provider_is_wanted_too_and_without_the_api_one_line_says_so() -> None:
    """The api is hidden: what that leads to stands on stderr, once."""
    source = """
import sys
sys.modules["opentelemetry"] = None
from durable_bus.wire.telemetry import Sending
for _ in range(2):
    with Sending("work", "b") as span:
        assert span.traceparent is None
"""
    ran = subprocess.run(
        [sys.executable, "-c", source],
        env=environment(OTEL_PYTHON_TRACER_PROVIDER="sdk_tracer_provider"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr.count("\nModuleNotFoundError: ") + ran.stderr.startswith("ModuleNotFoundError: ") == 1
