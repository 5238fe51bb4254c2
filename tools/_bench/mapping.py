"""`map`: durable_bus.map beside the two that people use today: a pool's imap, and joblib's generator."""

import argparse
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import durable_bus
from _bench.figures import of_rounds, paired, progress
from _bench.functions import burn_1ms, burn_100us, same

CHUNK_ITEMS = 256
SIDES = ("durable_bus", "pool", "joblib")


def texts(count: int) -> Iterator[str]:
    return (f"{index:088d}" for index in range(count))


def numbers(count: int) -> Iterable[int]:
    return range(count)


JOBS: dict[str, tuple[Callable[..., Any], Callable[[int], Iterable[Any]], float]] = {
    "str of 88 bytes": (same, texts, 0.0),
    "int": (same, numbers, 0.0),
    "100 us of a core": (burn_100us, numbers, 100e-6),
    "1 ms of a core": (burn_1ms, numbers, 1e-3),
}
"""What is called, what its items are, and how long each takes in seconds."""


def mapping(options: argparse.Namespace) -> dict[str, Any]:
    """Items a second of each side, in paired rounds, with all that it takes to start and to end."""
    measured: dict[str, Any] = {"workers": options.workers, "chunk": CHUNK_ITEMS, "jobs": {}}
    for name, (function, items, item_s) in JOBS.items():
        count = options.items if not item_s else max(1, int(options.workers * options.map_seconds / item_s))
        rates: dict[str, list[float]] = {side: [] for side in SIDES}
        for number in range(options.rounds):
            for side in SIDES if number % 2 == 0 else reversed(SIDES):
                seconds = SECONDS_OF[side](options, function, items(count), count)
                rates[side].append(count / seconds)
            told = ", ".join(f"{side} {values[-1]:,.0f}" for side, values in rates.items())
            progress(f"map: round {number + 1} of {options.rounds}, {name}, {count:,} items: {told} items/s")
        best = [max(pair) for pair in zip(rates["pool"], rates["joblib"], strict=True)]
        measured["jobs"][name] = {
            "items": count,
            "items_per_s": {side: of_rounds(values, 0) for side, values in rates.items()},
            "of_the_better": paired(rates["durable_bus"], best),
        }
    return measured


def of_durable_bus(options: argparse.Namespace, function: Any, items: Iterable[Any], count: int) -> float:
    folder = Path(tempfile.mkdtemp(prefix="durable_bus-bench-", dir=options.folder))
    try:
        begun_s = time.perf_counter()
        values = durable_bus.map(function, items, journal=folder / "journal.db", workers=options.workers)
        assert sum(1 for _ in values) == count
        return time.perf_counter() - begun_s
    finally:
        shutil.rmtree(folder)


def of_pool(options: argparse.Namespace, function: Any, items: Iterable[Any], count: int) -> float:
    begun_s = time.perf_counter()
    with closing(multiprocessing.get_context("spawn").Pool(options.workers)) as pool:
        assert sum(1 for _ in pool.imap(function, items, chunksize=CHUNK_ITEMS)) == count
    pool.join()
    return time.perf_counter() - begun_s


def of_joblib(options: argparse.Namespace, function: Any, items: Iterable[Any], count: int) -> float:
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    begun_s = time.perf_counter()
    values = Parallel(n_jobs=options.workers, return_as="generator")(
        delayed(function)(item) for item in items
    )
    assert sum(1 for _ in values) == count
    get_reusable_executor().shutdown(wait=True)
    return time.perf_counter() - begun_s


SECONDS_OF = {"durable_bus": of_durable_bus, "pool": of_pool, "joblib": of_joblib}


def show_mapping(measured: dict[str, Any]) -> None:
    print(
        f"    map: items a second with {measured['workers']} workers, median, from the call to the end of "
        f"all processes; Pool.imap with chunks of {measured['chunk']}, joblib.Parallel as a generator"
    )
    print(f"    {'':24}{'items':>10}{'durable_bus':>13}{'pool':>11}{'joblib':>11}   of the better")
    for name, job in measured["jobs"].items():
        rates = [job["items_per_s"][side]["median"] for side in SIDES]
        ratio = job["of_the_better"]
        print(
            f"    {name:24}{job['items']:10,}{rates[0]:13,.0f}{rates[1]:11,.0f}{rates[2]:11,.0f}"
            f"{ratio['median']:8.2f} ({', '.join(map(str, ratio['rounds']))})"
        )
