"""To export a span may take long, or kill the worker. No answer waits for it."""

from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk.trace")

from test_telemetry import Traces


@pytest.mark.slow
@pytest.mark.parametrize("app", ["traced", "traced_async"])
def test_a_worker_that_dies_while_it_exports_loses_the_span_alone(tmp_path: Path, app: str) -> None:
    traces = Traces(tmp_path)
    traces.started("a", app=app, FATAL=str(tmp_path / "killed"))
    assert (tmp_path / "killed").exists()
    assert traces.facts.rows("SELECT success, attempt FROM results") == [(1, 1)]
    assert traces.facts.rows("SELECT * FROM failures") == []
    assert (len(traces.spans("inside a")), traces.spans("process work")) == (1, [])
