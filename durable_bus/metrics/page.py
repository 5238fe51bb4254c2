"""One page of metrics: what the rows of a journal say, and what its supervisor says while it lives.

No label grows with buffers or items: there is one for each listener, limit, and word that is listed here.
"""

import platform
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from durable_bus import __version__
from durable_bus.journal.admin.metrics import DURATION_BOUNDS_US, WAIT_BOUNDS_MS, Measured
from durable_bus.metrics.exposition import Family, Sample, histogram_samples, text

__all__ = ["page"]

_OUTCOMES = ("succeeded", "failed", "missing")
_RESULTS = (
    "succeeded", "failed", "forwarded", "exception", "timeout", "lost", "malformed", "answer", "retry_after",
)  # fmt: skip
_STATES_OF_ITEMS = ("receiving", "waiting", "in_flight", "forwarded")
_STATES_OF_BUFFERS = ("receiving", "open", "complete", "cancelled", "pruned")
_STATES_OF_WORKERS = ("booting", "ready", "leaving")
_SINCE = (
    "Made of rows that a prune deletes: once something was pruned, it counts from the last midnight (UTC) on,"
    " and so begins at 0 once a day."
)


def page(measured: Measured, supervisor: Mapping[str, Any]) -> str:
    """`supervisor`: as `cli.facts.supervisor_facts` has it: `state`, and of a daemon that answers `workers`
    and `figures`.
    """
    return text([*_of_rows(measured), *_of_the_supervisor(supervisor), *_of_this_program(measured)])


def _of_rows(measured: Measured) -> Iterator[Family]:
    listeners, limits = sorted(measured.listeners), sorted(measured.limits)
    yield Family(
        "durable_bus_items_total",
        "counter",
        "Items that have their end: succeeded, failed, or missing (their buffer was cancelled or ended"
        " early). Also of pruned buffers, so it never falls.",
        _by_listener(listeners, "outcome", _OUTCOMES, measured.items),
    )
    yield Family(
        "durable_bus_attempts_total",
        "counter",
        "Attempts at items that have ended: succeeded, failed (the handler answered a failure), forwarded (it"
        f" passed its work on), or why they failed. {_SINCE}",
        _by_listener(listeners, "result", _RESULTS, measured.attempts),
    )
    durations, waits = measured.durations_us, measured.waits_ms
    yield Family(
        "durable_bus_item_duration_seconds",
        "histogram",
        f"How long handlers ran for the items that they have answered. {_SINCE}",
        histogram_samples(
            [bound / 1e6 for bound in DURATION_BOUNDS_US], durations.cumulative, durations.sum / 1e6
        ),
    )
    yield Family(
        "durable_bus_item_wait_seconds",
        "histogram",
        "How long items waited from their arrival, or their not_before, until a worker was given them for the"
        f" first attempt. Counted when the batch ends. {_SINCE}",
        histogram_samples([bound / 1e3 for bound in WAIT_BOUNDS_MS], waits.cumulative, waits.sum / 1e3),
    )
    yield Family(
        "durable_bus_items",
        "gauge",
        "Items that have no end yet: receiving (their buffer is not open), waiting (for a worker, or the"
        " next attempt), in_flight (a worker has them; after a crash, what it interrupted), forwarded.",
        _by_listener(listeners, "state", _STATES_OF_ITEMS, measured.items_now),
    )
    yield Family(
        "durable_bus_oldest_waiting_seconds",
        "gauge",
        "Since when the oldest open buffer waits that has an item which no worker has; paused ones wait, too."
        " Of a stream, since the chunk of its first item without an end came. 0: nothing waits.",
        [Sample(measured.oldest_waiting_ms.get(one, 0) / 1000, {"listener": one}) for one in listeners],
    )
    yield Family(
        "durable_bus_buffers",
        "gauge",
        "Buffers by state, as in the view buffers.",
        [Sample(measured.buffers[state], {"state": state}) for state in _STATES_OF_BUFFERS],
    )
    yield Family(
        "durable_bus_throttled_seconds_total",
        "counter",
        "How long each limit has let nothing start because a handler raised RetryAfter. What its rate held"
        " back is not in it.",
        [Sample(measured.rested_ms.get(limit, 0) / 1000, {"limit": limit}) for limit in limits],
    )


def _of_the_supervisor(supervisor: Mapping[str, Any]) -> Iterator[Family]:
    workers = [] if supervisor["state"] == "dead" else supervisor.get("workers")
    states = [] if workers is None else [worker["state"] for worker in workers]
    yield Family(
        "durable_bus_workers",
        "gauge",
        "Worker processes by state, as the daemon says it. All 0: nobody serves the journal. None: whoever"
        " serves it does not answer, or is no daemon.",
        []
        if workers is None
        else [Sample(states.count(state), {"state": state}) for state in _STATES_OF_WORKERS],
    )
    figures = supervisor.get("figures") or {}
    yield Family(
        "durable_bus_worker_exits_total",
        "counter",
        "Workers that have ended since the daemon started: left (as they were told), exited (with another"
        " exit code), killed (by a signal), timeout, unresponsive. None: no daemon answers.",
        [Sample(times, {"reason": reason}) for reason, times in figures.get("exits", {}).items()],
    )
    commits: list[int] = [*accumulate(figures.get("commits", ()))]
    yield Family(
        "durable_bus_commit_duration_seconds",
        "histogram",
        "How long commits to the journal took since the daemon started, until they were on disk. None: no"
        " daemon answers.",
        histogram_samples(
            [bound / 1e6 for bound in figures["commit_bounds_us"]], commits, figures["commits_us"] / 1e6
        )
        if commits
        else [],
    )


def _of_this_program(measured: Measured) -> Iterator[Family]:
    yield Family(
        "durable_bus_journal_bytes",
        "gauge",
        "Size of the journal and of its write-ahead log.",
        [Sample(size, {"file": file}) for file, size in measured.journal_bytes.items()],
    )
    versions = {
        "version": __version__,
        "python": platform.python_version(),
        "sqlite": measured.sqlite_version,
    }
    yield Family(
        "durable_bus_build_info", "gauge", "1; which versions made this page.", [Sample(1, versions)]
    )


def _by_listener(
    listeners: Iterable[str], label: str, words: Iterable[str], counted: Mapping[tuple[str, str], int]
) -> list[Sample]:
    return [
        Sample(counted.get((listener, word), 0), {"listener": listener, label: word})
        for listener in listeners
        for word in words
    ]
