"""How long one waits: `latency`, for one item on an idle bus; `awaits`, for items that themselves wait;
`beside`, for a small buffer while a big one runs.
"""

import argparse
import time
from typing import Any

from _bench.app import AWAITS_CONCURRENCY, AWAITS_S, items_of
from _bench.figures import of_rounds, percentiles, progress, show_percentiles
from _bench.processes import durable

# ---- latency


def latency(options: argparse.Namespace) -> dict[str, Any]:
    """From the start of a one-item buffer until `wait` has returned, on an idle bus."""
    items = items_of(options.payload, options.latency_samples)
    with durable(options.folder, options.workers) as client:
        samples_s = [seconds_of(client, [item]) for item in items]
    return percentiles(samples_s)


def seconds_of(client: Any, items: list[str], listener: str = "echo") -> float:
    begun_s = time.perf_counter()
    complete = client.start(listener, items).wait()
    taken_s = time.perf_counter() - begun_s
    assert complete.successful == len(items)
    return taken_s


def show_latency(measured: dict[str, Any]) -> None:
    print(f"    latency: start to complete, {measured['samples']} times")
    show_percentiles("a one-item buffer, idle bus", measured)


# ---- awaits

WARMING_BUFFERS = 4


def awaits(options: argparse.Namespace) -> dict[str, Any]:
    """One buffer of items that each await, on workers that know the listener's pace."""
    at_once = options.workers * AWAITS_CONCURRENCY
    items = items_of(options.payload, max(options.awaits_items, at_once))
    seconds = []
    with durable(options.folder, options.workers) as client:
        for _ in range(WARMING_BUFFERS):
            client.start("doze", items[:at_once]).wait()
        for number in range(options.rounds):
            begun_s = time.perf_counter()
            complete = client.start("doze", items[: options.awaits_items]).wait()
            seconds.append(time.perf_counter() - begun_s)
            assert complete.successful == options.awaits_items
            progress(f"awaits, round {number + 1} of {options.rounds}: {seconds[-1]:.2f} s")
    return {
        "items": options.awaits_items,
        "each_awaits_s": AWAITS_S,
        "concurrency": AWAITS_CONCURRENCY,
        "ideal_s": round(-(-options.awaits_items // at_once) * AWAITS_S, 3),
        "wall_s": of_rounds(seconds, 3),
    }


def show_awaits(measured: dict[str, Any]) -> None:
    wall_s = measured["wall_s"]
    print(
        f"    awaits: {measured['items']:,} items that each await {1000 * measured['each_awaits_s']:.0f} ms, "
        f"concurrency {measured['concurrency']} in each worker, until wait returns"
    )
    print(
        f"    {wall_s['median']:.2f} s, median of {wall_s['rounds']} "
        f"({measured['ideal_s']:.1f} s if nothing else took time)"
    )


# ---- beside

SMALL_BUFFERS = 50
SMALL_ITEMS = 10


def beside(options: argparse.Namespace) -> dict[str, Any]:
    """Ten-item buffers, one after the other: on the idle bus, then while a big buffer runs."""
    small = items_of(options.payload, SMALL_ITEMS)
    with durable(options.folder, options.workers) as client:
        idle_s = [seconds_of(client, small) for _ in range(SMALL_BUFFERS)]
        progress(f"beside: uploading {options.beside_items:,} items")
        big = client.start("echo", items_of(options.payload, options.beside_items))
        next(big.as_completed())
        before = big.status().completed
        progress(f"beside: the big buffer runs; starting {SMALL_BUFFERS} small ones beside it")
        begun_s = time.perf_counter()
        beside_s = [seconds_of(client, small) for _ in range(SMALL_BUFFERS)]
        taken_s = time.perf_counter() - begun_s
        after = big.status()
        client.cancel(big.buffer_id)
    return {
        "big_items": options.beside_items,
        "small_items": SMALL_ITEMS,
        "idle": percentiles(idle_s),
        "beside": percentiles(beside_s),
        "big_still_ran": after.state == "open",
        "big_items_per_s_meanwhile": round((after.completed - before) / taken_s, 1),
    }


def show_beside(measured: dict[str, Any]) -> None:
    print(
        f"    beside: {measured['beside']['samples']} buffers of {measured['small_items']} items, "
        "one after the other, start to complete"
    )
    show_percentiles("on the idle bus", measured["idle"])
    show_percentiles(f"beside a buffer of {measured['big_items']:,} items", measured["beside"])
    if measured["big_still_ran"]:
        print(f"    meanwhile the big one went on with {measured['big_items_per_s_meanwhile']:,.0f} items/s")
    else:
        print("    the big one had ended before: these figures are not what they are called; take more items")
