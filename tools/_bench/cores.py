"""`cores`: how much faster more workers are, beside a pool and an executor with as many."""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from _bench.app import JOBS, Job, items_of, searches, warm_text
from _bench.figures import of_rounds, paired, progress
from _bench.processes import durable, keyboard_shut, rows
from _bench.throughput import warm_pool

CHUNKS_ITEMS = (1, 4, 16, 64, 256)
BURNING = ("echo", "burn_100us", "burn_1ms")
SLEEPING = ("sleep_1ms", "sleep_10ms")
SIDES = ("durable_bus", "pool", "executor")
RATIOS = ("durable_bus/pool", "durable_bus/executor")
WARMING_SHARE = 0.2


def doubled_cores() -> list[int]:
    """1, 2, 4, … up to the machine's usable cores, and these."""
    cores = len(os.sched_getaffinity(0))
    return sorted({1 << power for power in range(cores.bit_length())} | {cores})


def cores(options: argparse.Namespace) -> dict[str, Any]:
    """Items a second of each side, in paired rounds, for each number of workers and each job."""
    runs: list[dict[str, Any]] = []
    for worker_counts, names in ((options.cores_list, BURNING), (options.sleepers_list, SLEEPING)):
        for workers in worker_counts:
            with (
                durable(options.folder, workers) as client,
                warm_pool(workers, items_of("query", 8 * workers)) as pool,
                warm_executor(workers) as executor,
            ):
                for name in names:
                    runs.append(compared(options, workers, name, client, pool, executor))
    return {"seconds": options.cores_seconds, "chunks": list(CHUNKS_ITEMS), "runs": runs}


@contextmanager
def warm_executor(workers: int) -> Iterator[ProcessPoolExecutor]:
    """An executor whose every worker has imported the app."""
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        with keyboard_shut():  # it starts its processes at the first call
            warmed = executor.map(warm_text, items_of("query", 8 * workers))
        list(warmed)
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def compared(
    options: argparse.Namespace,
    workers: int,
    name: str,
    client: Any,
    pool: Any,
    executor: ProcessPoolExecutor,
) -> dict[str, Any]:
    """One job with so many workers: each chunk size is tried once, then the best takes part in rounds."""
    job = JOBS[name]
    count = max(workers, round(workers * options.cores_seconds / job.item_s))
    items = items_of("query", count) if name == "echo" else searches(count)
    warming = items[: max(workers, int(len(items) * WARMING_SHARE))]
    dispatched: list[tuple[int, int]] = []

    def run_durable(given: list[str]) -> float:
        begun_s = time.perf_counter()
        buffer = client.start(name, given)
        complete = buffer.wait()
        taken_s = time.perf_counter() - begun_s
        assert complete.successful == len(given)
        dispatched.append(dispatches(client, buffer.buffer_id))
        return taken_s

    def in_chunks(side: str, chunk_items: int) -> float:
        begun_s = time.perf_counter()
        if side == "pool":
            answers = list(pool.imap_unordered(job.function, items, chunksize=chunk_items))
        else:
            answers = list(executor.map(job.function, items, chunksize=chunk_items))
        taken_s = time.perf_counter() - begun_s
        assert len(answers) == len(items)
        return taken_s

    run_durable(warming)
    best = {
        side: min(CHUNKS_ITEMS, key=lambda chunk_items, side=side: in_chunks(side, chunk_items))
        for side in SIDES[1:]
    }
    dispatched.clear()
    sides: dict[str, Callable[[], float]] = {
        "durable_bus": lambda: run_durable(items),
        "pool": lambda: in_chunks("pool", best["pool"]),
        "executor": lambda: in_chunks("executor", best["executor"]),
    }
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(options.rounds):
        for side in SIDES if number % 2 == 0 else reversed(SIDES):
            rates[side].append(len(items) / sides[side]())
    told = ", ".join(f"{side} {statistics.median(values):,.0f}" for side, values in rates.items())
    progress(f"cores: {workers} workers, {job.label}, {len(items):,} items: {told} items/s")
    return {
        "job": name,
        "workers": workers,
        "items": len(items),
        "best_chunk": best,
        "items_per_s": {side: of_rounds(values, 1) for side, values in rates.items()},
        "ratios": {ratio: paired(*(rates[side] for side in ratio.split("/"))) for ratio in RATIOS},
        "ideal_items_per_s": ideal(job, workers),
        "dispatches_per_worker": [round(made / workers, 2) for made, _ in dispatched],
        "returned_per_worker": [round(returned / workers, 2) for _, returned in dispatched],
    }


def dispatches(client: Any, buffer_id: str) -> tuple[int, int]:
    """How many dispatches a buffer took, and how many of them were taken back."""
    sql = (
        "SELECT count(*), coalesce(sum(ended = 'returned'), 0) FROM dispatches "
        f"WHERE buffer_id = '{buffer_id}'"
    )
    made, returned = rows(client.journal, sql)[0]
    return made, returned


def ideal(job: Job, workers: int) -> float | None:
    """Items a second if nothing but the items took time; None where nobody knows how long one takes."""
    if not job.is_exact:
        return None
    at_once = workers if job.sleeps else min(workers, len(os.sched_getaffinity(0)))
    return round(at_once / job.item_s, 1)


def show_cores(measured: dict[str, Any]) -> None:
    print(
        f"    cores: items a second, median; each run is {measured['seconds']:g} s of every worker's work; "
        f"pool and executor with the best of chunk sizes {', '.join(map(str, measured['chunks']))}"
    )
    print(
        f"    {'job':12}{'workers':>8}{'items':>9}{'ideal':>10}{'durable_bus':>13}{'pool':>10} (chunk)"
        f"{'executor':>10} (chunk)   /pool  /executor   dispatches, returned a worker"
    )
    for run in measured["runs"]:
        rates = {side: facts["median"] for side, facts in run["items_per_s"].items()}
        above_ideal = f"{run['ideal_items_per_s']:,.0f}" if run["ideal_items_per_s"] else ""
        made, returned = (
            statistics.median(run[key]) for key in ("dispatches_per_worker", "returned_per_worker")
        )
        print(
            f"    {run['job']:12}{run['workers']:8}{run['items']:9,}{above_ideal:>10}"
            f"{rates['durable_bus']:13,.0f}{rates['pool']:10,.0f} {run['best_chunk']['pool']:>7}"
            f"{rates['executor']:10,.0f} {run['best_chunk']['executor']:>7}"
            f"{run['ratios']['durable_bus/pool']['median']:8.2f}"
            f"{run['ratios']['durable_bus/executor']['median']:11.2f}{made:13.1f}{returned:8.1f}"
        )
