"""The first page: what runs, how fast, what failed last, and what holds things up."""

import math
from typing import Any

from starlette.responses import Response

from durable_bus.cli.facts import why_nothing_runs
from durable_bus.web import drawings
from durable_bus.web.pages.look import Look

_OPEN_MAX = 20
_ENDED_MAX = 8
_FAILURES_MAX = 6
RATE_SECONDS = 300
_RATE_BUCKETS = 60
_RECENT_BUCKETS = 2
"""Ten seconds, as `status` has it. The last part ends now, so it is a whole one."""


def overview(look: Look) -> Response:
    reader = look.reader
    states = reader.states()
    open_buffers = with_reasons(look, reader.open_buffers(_OPEN_MAX))
    rates = reader.rate(seconds=RATE_SECONDS, buckets=_RATE_BUCKETS, until_ms=look.now_ms)
    seconds = RATE_SECONDS / _RATE_BUCKETS
    recent = [results + failures for results, failures in rates[-_RECENT_BUCKETS:]]
    return look.render(
        "overview.html",
        states=states,
        not_ended=states.get("open", 0) + states.get("receiving", 0),
        open_buffers=open_buffers,
        ended=reader.ended_buffers(_ENDED_MAX),
        failures=reader.last_failures(_FAILURES_MAX),
        rates=rates,
        rate_now=sum(recent) / len(recent) / seconds,
        results_lately=sum(results for results, _ in rates),
        failures_lately=sum(failures for _, failures in rates),
        highest=math.ceil(max(results + failures for results, failures in rates) / seconds),
        rate_drawing=drawings.bars(rates, f"Results of the last {RATE_SECONDS // 60} minutes"),
        hands=reader.hands(),
    )


def with_reasons(look: Look, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with `waits_for`, why nothing is done about it. That is known of now only."""
    reasons = why_nothing_runs(look.reader.reader, rows, look.supervisor) if look.at is None else {}
    return [{**row, "waits_for": reasons.get(row["buffer_id"])} for row in rows]
