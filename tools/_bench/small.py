"""`small`: how long small buffers take, beside what they must take."""

import argparse
import statistics
import tempfile
import time
from typing import Any

from _bench.app import JOBS, items_of, searches
from _bench.figures import percentiles, progress, show_percentiles
from _bench.machine import append_s
from _bench.processes import daemon
from _bench.waiting import seconds_of
from durable_bus import Client

FANNED_ITEMS = 30
FANNED_JOB = "sleep_1ms"
OPEN_BUFFER_ITEMS = 500
ONE_ITEM_BUFFERS_BESIDE = 10


def small(options: argparse.Namespace) -> dict[str, Any]:
    """Buffers of 30 items that sleep 1 ms, for each number of workers; then buffers of one item."""
    fanned = {workers: thirty(options, workers) for workers in options.small_list}
    with daemon(options.folder, options.small_list[0]) as (journal, _), Client(journal) as client:
        alone_s, synced_s = [], []
        with tempfile.TemporaryFile(dir=options.folder, buffering=0) as file:
            for item in items_of("query", options.small_samples):
                alone_s.append(seconds_of(client, [item]))
                synced_s.append(append_s(file) + append_s(file))
        beside_s = beside_many(client, items_of("query", ONE_ITEM_BUFFERS_BESIDE), options.small_open)
    return {
        "fanned": fanned,
        "one_item": percentiles(alone_s),
        "two_fdatasyncs": percentiles(synced_s),
        "one_item_beside": {
            "workers": options.small_list[0],
            "open_buffers": options.small_open,
            **percentiles(beside_s),
        },
    }


def thirty(options: argparse.Namespace, workers: int) -> dict[str, Any]:
    item_ms = JOBS[FANNED_JOB].item_s * 1000
    items = searches(FANNED_ITEMS)
    with daemon(options.folder, workers) as (journal, _), Client(journal) as client:
        for _ in range(3):  # how long its items take is known from then on
            seconds_of(client, items, FANNED_JOB)
        samples_s = [seconds_of(client, items, FANNED_JOB) for _ in range(options.small_samples)]
        sleep_ms = slept_ms()
    ideal_ms = -(-FANNED_ITEMS // min(workers, FANNED_ITEMS)) * item_ms
    measured = percentiles(samples_s)
    progress(f"small: {workers} workers, p50 {measured['p50_ms']} ms, ideal {ideal_ms:g} ms")
    return {"ideal_ms": ideal_ms, "sleep_really_ms": sleep_ms, **measured}


def slept_ms() -> float:
    """How long an item's sleep really is: the kernel adds to it, the more, the busier the machine."""
    samples_ms = []
    for _ in range(50):
        begun_s = time.perf_counter()
        JOBS[FANNED_JOB].function("")
        samples_ms.append((time.perf_counter() - begun_s) * 1000)
    return round(statistics.median(samples_ms), 2)


def beside_many(client: Any, items: list[str], open_buffers: int) -> list[float]:
    """One-item buffers, one after the other, while many are open, whose items sleep."""
    others = searches(OPEN_BUFFER_ITEMS)
    started = [client.start(FANNED_JOB, others) for _ in range(open_buffers)]
    samples_s = [seconds_of(client, [item]) for item in items]
    assert started[-1].status().state == "open", "the others were still open"
    for buffer in started:
        client.cancel(buffer.buffer_id)
    return samples_s


def show_small(measured: dict[str, Any]) -> None:
    print(f"    small: {FANNED_ITEMS} items that sleep 1 ms, on a warm daemon, start to complete")
    for workers, facts in measured["fanned"].items():
        label = f"{workers} workers; ideal {facts['ideal_ms']:g} ms, 1 ms is {facts['sleep_really_ms']:g}"
        show_percentiles(label, facts)
    show_percentiles("one item", measured["one_item"])
    show_percentiles("two fdatasyncs of 4 KiB, in between", measured["two_fdatasyncs"])
    label = f"one item, beside {measured['one_item_beside']['open_buffers']} open buffers"
    show_percentiles(label, measured["one_item_beside"])
