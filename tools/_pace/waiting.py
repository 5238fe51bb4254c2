"""What waits beside what: `priority`, `waiting`."""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

from _bench.figures import of_rounds, percentiles, progress, show_percentiles
from _bench.processes import peak_mb

from _pace.app import NAP_S, SHARED_RATE
from _pace.processes import LOOK_EVERY_S, completed, daemon
from durable_bus import Client

# ---- priority

SMALL_BUFFERS = 50
SMALL_ITEMS = 10
LOW = -2


def priority(options: argparse.Namespace) -> dict[str, Any]:
    small = [str(n) for n in range(SMALL_ITEMS)]
    with daemon(options.folder, 2) as one, one.client() as client:
        client.start("nap", small).wait()
        progress(f"priority: uploading {options.big_items:,} items")
        big = client.start("nap", map(str, range(options.big_items)), buffer_id="big")
        next(big.as_completed())
        urgent_s = []
        for _ in range(SMALL_BUFFERS):
            begun_s = time.perf_counter()
            client.start("nap", small, priority=10).wait()
            urgent_s.append(time.perf_counter() - begun_s)
        begun_s = time.perf_counter()
        low = client.start("nap", small, priority=LOW)
        next(low.as_completed())
        low_first_s = time.perf_counter() - begun_s
        low.wait()
        low_s = time.perf_counter() - begun_s
        big_went_on = big.status().pending > 0
        client.cancel("big")
        progress("priority: two buffers on one limit")
        texts = [str(n) for n in range(int(SHARED_RATE * options.fair_seconds * 2))]
        for name in "ab":
            client.start("share", texts, buffer_id=name)
        while not all(completed(one.journal, name) for name in "ab"):
            time.sleep(LOOK_EVERY_S)
        time.sleep(1)  # the first has had a bucketful before the second was there
        before = [completed(one.journal, name) for name in "ab"]
        time.sleep(options.fair_seconds)
        fair = [completed(one.journal, name) - then for name, then in zip("ab", before, strict=True)]
    return {
        "urgent": percentiles(urgent_s),
        "low_first_s": round(low_first_s, 1),
        "low_s": round(low_s, 1),
        "big_went_on": big_went_on,
        "fair_seconds": options.fair_seconds,
        "fair": fair,
    }


def show_priority(measured: dict[str, Any]) -> None:
    print(f"    priority: {SMALL_ITEMS} items of {1000 * NAP_S:g} ms beside a big buffer, two workers")
    show_percentiles("priority 10, start to complete", measured["urgent"])
    print(
        f"    priority {LOW}: the first result after {measured['low_first_s']:.1f} s, "
        f"complete after {measured['low_s']:.1f} s"
    )
    if not measured["big_went_on"]:
        print("    the big one had ended before: these figures are not what they are called; take more items")
    one, other = measured["fair"]
    print(
        f"    two buffers on one limit, {measured['fair_seconds']:g} s: {one:,} and {other:,} items, "
        f"{one / max(1, other):.3f}"
    )


# ---- waiting


def waiting(options: argparse.Namespace) -> dict[str, Any]:
    rounds, items = range(options.rounds), [str(n) for n in range(options.echo_items)]
    with daemon(options.folder, 2) as one, one.client() as client:
        echo_rate(client, items)
        before = [echo_rate(client, items) for _ in rounds]
        alone_mb = memory_mb(one.process.pid)
        client.start("seldom", map(str, range(options.waiting_items)), buffer_id="waiting")
        while not completed(one.journal, "waiting"):
            time.sleep(LOOK_EVERY_S)
        asked_s = []
        end_s = time.monotonic() + options.status_seconds
        while time.monotonic() < end_s:
            begun_s = time.perf_counter()
            client.supervisor_status()
            asked_s.append(time.perf_counter() - begun_s)
        beside = [echo_rate(client, items) for _ in rounds]
        waiting_mb, peak = memory_mb(one.process.pid), peak_mb(one.process.pid)
        client.cancel("waiting")
        after = [echo_rate(client, items) for _ in rounds]
    return {
        "items": options.waiting_items,
        "memory_before_mb": alone_mb,
        "memory_mb": waiting_mb,
        "memory_peak_mb": round(peak, 1),
        "status": percentiles(asked_s),
        "before_per_s": of_rounds(before, 0),
        "beside_per_s": of_rounds(beside, 0),
        "after_per_s": of_rounds(after, 0),
        "beside_over_alone": round(statistics.median(beside) / statistics.median(before + after), 3),
    }


def echo_rate(client: Client, items: list[str]) -> float:
    begun_s = time.perf_counter()
    client.start("echo", items).wait()
    return len(items) / (time.perf_counter() - begun_s)


def memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def show_waiting(measured: dict[str, Any]) -> None:
    print(f"    waiting: {measured['items']:,} items wait for a limit of one an hour, two workers")
    print(
        f"    supervisor: {measured['memory_mb']} MB, {measured['memory_before_mb']} MB before; "
        f"peak {measured['memory_peak_mb']} MB"
    )
    show_percentiles("its answer to status meanwhile", measured["status"])
    print("    items/s of another listener, in rounds:")
    for name in ("before", "beside", "after"):
        print(f"        {name:6} {', '.join(f'{rate:,.0f}' for rate in measured[f'{name}_per_s']['rounds'])}")
    print(f"    beside over alone, by the medians: {measured['beside_over_alone']:.2f}")
