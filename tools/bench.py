#!/usr/bin/env python3
"""Measure durable_bus beside multiprocessing: throughput, latency and memory. Nothing here asserts anything.

    tools/bench.py                                        200,000 items, as many workers as usable cores
    tools/bench.py --items 1000000 --workers 2 --rounds 3
    tools/bench.py --only latency                         one section; --json prints JSON instead of a table

**The job** is an XML echo: parse the item with lxml, serialise it back. An item is a small order as a shop
would send it: 7 to 10 elements, 7 to 11 attributes, text; 244 to 396 bytes (mean 317); different for every
index, three in ten with characters outside ASCII. All variants get the same items, held in a list before any
clock starts.

**The variants**, each with the same number of workers, up and warmed before its clock starts: a small buffer
has reached every worker (multiprocessing: every worker has imported this file and echoed something).

    a   durable_bus, durability full (an fsync a commit): from `start` until `wait` has returned
    a2  the same run, until `list(buffer.results())` is read as well
    b   durable_bus, durability normal (no fsync a commit), until `wait` has returned
    c   multiprocessing.Pool.imap_unordered(chunksize=256), spawned workers, until all answers are in a list
    d   the same with chunksize=1
    e   concurrent.futures.ProcessPoolExecutor.map(chunksize=1), spawned workers

d and e take a subset of the items where there are many (the table says how many), because they are slow;
rates are compared. A round runs every variant once, one after the other, and every second round in the
opposite order; a ratio is taken within a round, and what is printed is the median over the rounds: noise of
the machine hits both sides.

**Latency** is of a buffer of one item on an idle bus, from `start` until `wait` has returned. **Memory** is
the peak resident set (VmHWM) of the supervisor at the end of each run of a.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shlex
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lxml import etree  # noqa: E402

from durable_bus import Bus  # noqa: E402

WARMING_S = 0.02
"""How long an item that warms takes: long enough that one worker cannot take them all."""
SUBSET_ITEMS_MAX = 20_000
"""How many items the slow variants get."""
LATENCY_SAMPLES = 200
_NAMES = ("Ada Lovelace", "Alan Turing", "Grace Hopper", "Kurt Gödel", "Edsger Dijkstra", "Barbara Liskov")
_CITIES = ("London", "Paris", "Zurich", "Vienna", "Madrid", "Helsinki", "Kraków", "Lisbon")
_NOTES = (
    "leave at the door of flat",
    "ring twice, <b>not</b> thrice, at number",
    "nothing to remark on",
    "gate code",
    "call before",
)

bus = Bus("bench")


@bus.listener("echo")
def echo(element: etree._Element) -> etree._Element:
    """What durable_bus runs: it parses before and serialises after."""
    return element


@bus.listener("warm")
def warm(text: str) -> str:
    time.sleep(WARMING_S)
    return text


def echo_text(text: str) -> str:
    """What multiprocessing runs: the same work on the same text."""
    return etree.tostring(etree.fromstring(text), encoding="unicode")


def warm_text(text: str) -> str:
    time.sleep(WARMING_S)
    return echo_text(text)


def item(index: int) -> str:
    """The order with this number."""
    lines = "".join(
        f'<line sku="A-{(index + number) % 977:04d}" qty="{index % 9 + 1}">'
        f"Paper, {80 + 5 * number} g &amp; white</line>"
        for number in range(1 + index % 3)
    )
    return (
        f'<order id="o-{index:08d}" currency="EUR" placed="2026-03-{index % 28 + 1:02d}">'
        f'<customer tier="{index % 3}"><name>{_NAMES[index % 6]}</name>'
        f"<city>{_CITIES[index % 8]}</city></customer>"
        f'<lines>{lines}</lines><note lang="en">{_NOTES[index % 5]} {index % 41}</note></order>'
    )


# ---- one run of each variant: seconds, by the name of what was measured


@contextmanager
def durable(folder: Path, workers: int, durability: str) -> Iterator[Any]:
    """A client of a fresh journal whose workers are up."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        journal = Path(name) / "journal.db"
        with bus.running(journal=journal, workers=workers, durability=durability) as client:
            warm_up(client, workers)
            yield client


def warm_up(client: Any, workers: int) -> None:
    """Small buffers until every worker has answered one item at least."""
    items = [item(index) for index in range(8 * workers)]
    while True:
        client.start("warm", items).wait()
        client.start("echo", items).wait()
        with sqlite3.connect(f"file:{client.journal}?mode=ro", uri=True) as connection:
            (seen,) = connection.execute("SELECT count(DISTINCT worker_pid) FROM results").fetchone()
        connection.close()
        if seen >= workers:
            return


def run_durable(folder: Path, workers: int, items: list[str], durability: str) -> dict[str, float]:
    with durable(folder, workers, durability) as client:
        begun_s = time.perf_counter()
        buffer = client.start("echo", items)
        started_s = time.perf_counter()
        complete = buffer.wait()
        waited_s = time.perf_counter()
        results = list(buffer.results())
        read_s = time.perf_counter()
        assert complete.successful == len(results) == len(items)
        assert results[-1].payload == items[-1]
        return {
            "start": started_s - begun_s,
            "wait": waited_s - begun_s,
            "read": read_s - begun_s,
            "supervisor_peak_mb": peak_mb(client.supervisor_pid),
        }


def run_pool(workers: int, items: list[str], chunk_items: int) -> float:
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(warm_text, items[: 8 * workers], chunksize=1)
        begun_s = time.perf_counter()
        answers = list(pool.imap_unordered(echo_text, items, chunksize=chunk_items))
        seconds = time.perf_counter() - begun_s
    assert len(answers) == len(items)
    return seconds


def run_executor(workers: int, items: list[str]) -> float:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        list(executor.map(warm_text, items[: 8 * workers]))
        begun_s = time.perf_counter()
        answers = list(executor.map(echo_text, items, chunksize=1))
        seconds = time.perf_counter() - begun_s
    assert answers[-1] == items[-1]
    return seconds


# ---- sections: each takes the options and gives a JSON object; `show_NAME` prints it


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
    items = [item(index) for index in range(options.items)]
    subset = items[:SUBSET_ITEMS_MAX]
    rates: dict[str, list[float]] = {name: [] for name in LABELS if set(name[0]) <= set(options.variants)}
    peaks_mb: list[float] = []

    def run_a() -> None:
        seconds = run_durable(folder, workers, items, "full")
        rates["a"].append(len(items) / seconds["wait"])
        rates["a2"].append(len(items) / seconds["read"])
        peaks_mb.append(seconds["supervisor_peak_mb"])

    def run_b() -> None:
        rates["b"].append(len(items) / run_durable(folder, workers, items, "normal")["wait"])

    variants: dict[str, Callable[[], None]] = {
        "a": run_a,
        "b": run_b,
        "c": lambda: rates["c"].append(len(items) / run_pool(workers, items, 256)),
        "d": lambda: rates["d"].append(len(subset) / run_pool(workers, subset, 1)),
        "e": lambda: rates["e"].append(len(subset) / run_executor(workers, subset)),
    }
    chosen = [name for name in variants if name in options.variants]
    for number in range(options.rounds):
        for name in chosen if number % 2 == 0 else reversed(chosen):
            variants[name]()
            last = ", ".join(f"{key} {values[-1]:,.0f}" for key, values in rates.items() if key[0] == name)
            progress(f"round {number + 1} of {options.rounds}: {last} items/s")
    return {
        "variants": {
            name: {
                "label": LABELS[name],
                "items": len(subset if name in "de" else items),
                "items_per_s": [round(rate, 1) for rate in of_rounds],
                "median_items_per_s": round(statistics.median(of_rounds), 1),
            }
            for name, of_rounds in rates.items()
        },
        "ratios": {
            ratio: paired(*(rates[name] for name in ratio.split("/")))
            for ratio in RATIOS
            if all(name in rates for name in ratio.split("/"))
        },
        "supervisor_peak_mb": [round(peak, 1) for peak in peaks_mb],
    }


def paired(above: list[float], below: list[float]) -> dict[str, Any]:
    ratios = [round(one / other, 3) for one, other in zip(above, below, strict=True)]
    return {"rounds": ratios, "median": statistics.median(ratios)}


def show_throughput(measured: dict[str, Any]) -> None:
    print(f"{'':4}{'throughput':44}{'items':>10}{'items/s, median':>17}   lowest - highest")
    for name, facts in measured["variants"].items():
        rates = facts["items_per_s"]
        print(
            f"{name:4}{facts['label']:44}{facts['items']:10,}{facts['median_items_per_s']:17,.0f}"
            f"   {min(rates):,.0f} - {max(rates):,.0f}"
        )
    for ratio, facts in measured["ratios"].items():
        print(f"    {ratio:44}{facts['median']:27.2f}   of the rounds: {facts['rounds']}")
    if measured["supervisor_peak_mb"]:
        print(f"    {'supervisor, peak resident memory':44}{max(measured['supervisor_peak_mb']):24.0f} MB")


def latency(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds from the start of a one-item buffer until `wait` has returned, on an idle bus."""
    with durable(options.folder, options.workers, "full") as client:
        samples_ms = []
        for index in range(options.latency_samples):
            begun_s = time.perf_counter()
            client.start("echo", [item(index)]).wait()
            samples_ms.append((time.perf_counter() - begun_s) * 1000)
    return {"samples": len(samples_ms), **percentiles(samples_ms)}


def percentiles(samples_ms: list[float]) -> dict[str, float]:
    """The nearest-rank 50th and 99th percentile, and the longest."""
    ordered = sorted(samples_ms)
    rank_99 = -(-99 * len(ordered) // 100) - 1
    return {
        "p50_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[rank_99], 2),
        "max_ms": round(ordered[-1], 2),
    }


def show_latency(measured: dict[str, Any]) -> None:
    print(
        f"    a one-item buffer, {measured['samples']} times: p50 {measured['p50_ms']:.2f} ms, "
        f"p99 {measured['p99_ms']:.2f} ms, longest {measured['max_ms']:.2f} ms"
    )


SECTIONS: dict[str, tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], None]]] = {
    "throughput": (throughput, show_throughput),
    "latency": (latency, show_latency),
}


# ---- the machine


def peak_mb(pid: int) -> float:
    """VmHWM, the most memory a process has had resident, in MB of 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(f"no VmHWM of process {pid}")


def machine(folder: Path) -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "lxml": ".".join(map(str, etree.LXML_VERSION[:3])),
        "file_system": file_system(folder),
        "fdatasync_ms": fdatasync_ms(folder),
    }


def file_system(folder: Path) -> str:
    """The kind of file system a folder lies on: on tmpfs an fsync costs nothing, and the figures say
    nothing.
    """
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    at = [(mount, kind) for mount, kind in mounts if folder.resolve().is_relative_to(mount)]
    return max(at, key=lambda pair: len(pair[0]))[1] if at else "unknown"


def fdatasync_ms(folder: Path) -> float:
    """What durability costs here at least: the median of 50 appends of 4 KiB with fdatasync."""
    samples_ms = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(50):
            file.write(bytes(4096))
            begun_s = time.perf_counter()
            os.fdatasync(file.fileno())
            samples_ms.append((time.perf_counter() - begun_s) * 1000)
    return round(statistics.median(samples_ms), 2)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections: {','.join(SECTIONS)}")
    parser.add_argument(
        "--variants", default="abcde", help="which of throughput's, such as ac; a includes a2"
    )
    parser.add_argument("--latency-samples", type=int, default=LATENCY_SAMPLES)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where journals go")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    unknown = set(options.only) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown section {', '.join(sorted(unknown))}; there are: {', '.join(SECTIONS)}")
    if min(options.items, options.workers, options.rounds, options.latency_samples) < 1:
        parser.error("--items, --workers, --rounds and --latency-samples must be at least 1")
    if not options.variants or not set(options.variants) <= set("abcde"):
        parser.error("--variants takes letters from a to e")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = options_of(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    report: dict[str, Any] = {
        "command": shlex.join(["tools/bench.py", *words]),
        "machine": machine(options.folder),
        "items": options.items,
        "workers": options.workers,
        "rounds": options.rounds,
        "sections": {name: SECTIONS[name][0](options) for name in options.only},
    }
    if options.json:
        print(json.dumps(report, indent=2))
        return 0
    print(f"$ {report['command']}")
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    print(f"items {options.items:,}, workers {options.workers}, rounds {options.rounds}")
    for name in options.only:
        print()
        SECTIONS[name][1](report["sections"][name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
