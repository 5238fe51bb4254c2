"""`throughput`: items a second beside multiprocessing. `million`: whether many more items are as fast."""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

from _bench.app import echo_text, items_of, warm_text
from _bench.figures import of_rounds, paired, progress
from _bench.processes import durable, keyboard_shut, peak_mb

SUBSET_ITEMS_MAX = 20_000
"""How many items the slow variants get."""
POOL_CHUNK_ITEMS = 256
"""With which a pool is fast: what durable_bus is compared with."""


# ---- one run of each variant: seconds, by the name of what was measured


def run_durable(
    folder: Path, workers: int, items: list[str], durability: str, *, read: bool = True
) -> dict[str, float]:
    with durable(folder, workers, durability) as client:
        begun_s = time.perf_counter()
        buffer = client.start("echo", items)
        complete = buffer.wait()
        measured = {"wait": time.perf_counter() - begun_s}
        assert complete.successful == len(items)
        if read:
            results = list(buffer.results())
            measured["read"] = time.perf_counter() - begun_s
            assert len(results) == len(items)
            assert results[-1].payload == items[-1]
        return {**measured, "supervisor_peak_mb": peak_mb(client.supervisor_pid)}


@contextmanager
def warm_pool(workers: int, items: list[str]) -> Iterator[Pool]:
    """A pool whose every worker has imported the app and echoed something."""
    with keyboard_shut():
        pool = multiprocessing.get_context("spawn").Pool(workers)
    with pool:
        pool.map(warm_text, items[: 8 * workers], chunksize=1)
        yield pool


def run_pool(workers: int, items: list[str], chunk_items: int) -> float:
    with warm_pool(workers, items) as pool:
        begun_s = time.perf_counter()
        answers = list(pool.imap_unordered(echo_text, items, chunksize=chunk_items))
        seconds = time.perf_counter() - begun_s
    assert len(answers) == len(items)
    return seconds


def run_executor(workers: int, items: list[str]) -> float:
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        with keyboard_shut():  # it starts its processes at the first call
            warmed = executor.map(warm_text, items[: 8 * workers])
        list(warmed)
        begun_s = time.perf_counter()
        answers = list(executor.map(echo_text, items, chunksize=1))
        seconds = time.perf_counter() - begun_s
    finally:
        executor.shutdown(cancel_futures=True)
    assert answers[-1] == items[-1]
    return seconds


# ---- throughput

LABELS = {
    "a": "durable_bus full, until wait returns",
    "a2": "durable_bus full, until results are read",
    "b": "durable_bus normal, until wait returns",
    "c": "Pool.imap_unordered, chunksize 256",
    "d": "Pool.imap_unordered, chunksize 1",
    "e": "ProcessPoolExecutor.map, chunksize 1",
}
RATIOS = ("a/c", "a2/c", "a/b", "a/d", "a/e")


def throughput(options: argparse.Namespace) -> dict[str, Any]:
    """Items a second of every variant, in paired rounds."""
    folder, workers = options.folder, options.workers
    items = items_of(options.payload, options.items)
    subset = items[:SUBSET_ITEMS_MAX]
    rates: dict[str, list[float]] = {name: [] for name in LABELS if set(name[0]) <= set(options.variants)}
    peaks_mb: list[float] = []

    def run_a() -> None:
        seconds = run_durable(folder, workers, items, "full")
        rates["a"].append(len(items) / seconds["wait"])
        rates["a2"].append(len(items) / seconds["read"])
        peaks_mb.append(seconds["supervisor_peak_mb"])

    def run_b() -> None:
        rates["b"].append(len(items) / run_durable(folder, workers, items, "normal", read=False)["wait"])

    variants: dict[str, Callable[[], None]] = {
        "a": run_a,
        "b": run_b,
        "c": lambda: rates["c"].append(len(items) / run_pool(workers, items, POOL_CHUNK_ITEMS)),
        "d": lambda: rates["d"].append(len(subset) / run_pool(workers, subset, 1)),
        "e": lambda: rates["e"].append(len(subset) / run_executor(workers, subset)),
    }
    chosen = [name for name in variants if name in options.variants]
    for number in range(options.rounds):
        for name in chosen if number % 2 == 0 else reversed(chosen):
            variants[name]()
            last = ", ".join(f"{key} {values[-1]:,.0f}" for key, values in rates.items() if key[0] == name)
            progress(f"throughput, round {number + 1} of {options.rounds}: {last} items/s")
    return {
        "variants": {
            name: {
                "label": LABELS[name],
                "items": len(subset if name in "de" else items),
                "items_per_s": of_rounds(values, 1),
            }
            for name, values in rates.items()
        },
        "ratios": {
            ratio: paired(*(rates[name] for name in ratio.split("/")))
            for ratio in RATIOS
            if all(name in rates for name in ratio.split("/"))
        },
        "supervisor_peak_mb": [round(peak, 1) for peak in peaks_mb],
    }


def show_throughput(measured: dict[str, Any]) -> None:
    print(f"{'':4}{'throughput':44}{'items':>10}{'items/s, median':>17}   lowest - highest")
    for name, facts in measured["variants"].items():
        rates = facts["items_per_s"]
        print(
            f"{name:4}{facts['label']:44}{facts['items']:10,}{rates['median']:17,.0f}"
            f"   {min(rates['rounds']):,.0f} - {max(rates['rounds']):,.0f}"
        )
    for ratio, facts in measured["ratios"].items():
        print(f"    {ratio:44}{facts['median']:27.2f}   of the rounds: {facts['rounds']}")
    if measured["supervisor_peak_mb"]:
        print(f"    {'supervisor, peak resident memory':44}{max(measured['supervisor_peak_mb']):24.0f} MB")


# ---- million


def million(options: argparse.Namespace) -> dict[str, Any]:
    """Variant a with --million-items beside variant a with --items, in paired rounds."""
    sizes = {"few": options.items, "many": options.million_items}
    items = items_of(options.payload, max(sizes.values()))
    rates: dict[str, list[float]] = {"few": [], "many": []}
    peaks_mb: dict[str, list[float]] = {"few": [], "many": []}
    for number in range(options.rounds):
        for name in ("few", "many") if number % 2 == 0 else ("many", "few"):
            seconds = run_durable(options.folder, options.workers, items[: sizes[name]], "full", read=False)
            rates[name].append(sizes[name] / seconds["wait"])
            peaks_mb[name].append(seconds["supervisor_peak_mb"])
            progress(
                f"million, round {number + 1} of {options.rounds}: "
                f"{sizes[name]:,} items, {rates[name][-1]:,.0f} items/s"
            )
    sides = {
        name: {
            "items": sizes[name],
            "items_per_s": of_rounds(rates[name], 1),
            "supervisor_peak_mb": round(max(peaks_mb[name]), 1),
        }
        for name in sizes
    }
    return {**sides, "many/few": paired(rates["many"], rates["few"])}


def show_million(measured: dict[str, Any]) -> None:
    print("    million: durable_bus full, until wait returns, with few items and with many")
    for name in ("few", "many"):
        side = measured[name]
        print(
            f"    {side['items']:>10,} items {side['items_per_s']['median']:12,.0f} items/s, median; "
            f"supervisor's peak {side['supervisor_peak_mb']:.0f} MB"
        )
    ratio = measured["many/few"]
    print(f"    many/few {ratio['median']:.2f}, of the rounds: {ratio['rounds']}")
    print("    (goals: 0.85 or more; below 150 MB)")
