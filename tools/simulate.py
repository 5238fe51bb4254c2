"""Run the real supervisor and the real SQLite through simulated schedules of faults, one schedule per seed.

    tools/simulate.py                     1,000 schedules, on every core
    tools/simulate.py --seeds 10000       as many as that
    tools/simulate.py --seed 4711         that one, as often as you like: the same seed is the same schedule
    tools/simulate.py --seed 4711 --verbose    and tell what happens, as it happens

Prints one line in the end. The first schedule that breaks a promise is told with what led there, and with the
command that runs it again. Exit code 1 when one has. What is simulated and what is checked: tests/README.md.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from simulation import Summary, run_schedule  # noqa: E402
from simulation.storage import fast_folder  # noqa: E402

Outcome = tuple[int, Summary | None, str]
"""The seed, and what it has been through or how it failed."""


def run_one(seed: int, folder: Path, *, verbose: bool = False) -> Outcome:
    try:
        return seed, run_schedule(seed, folder, tell=print if verbose else None), ""
    except Exception:
        return seed, None, traceback.format_exc()


def run_share(share: tuple[int, int, str]) -> list[Outcome]:
    """Some seeds in a row, in a process of the pool."""
    first, end, folder = share
    return [run_one(seed, Path(folder)) for seed in range(first, end)]


def run_all(start: int, count: int, processes: int, folder: Path) -> Iterator[Outcome]:
    """Every seed from `start` on, in any order."""
    size = max(1, min(25, count // (4 * processes)))
    shares = [
        (first, min(first + size, start + count), str(folder)) for first in range(start, start + count, size)
    ]
    if processes == 1:
        for share in shares:
            yield from run_share(share)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for outcomes in pool.imap_unordered(run_share, shares):
            yield from outcomes


def tell_failure(seed: int, story: str) -> None:
    print(story, file=sys.stderr)
    print(f"seed {seed} failed; run it again with: python tools/simulate.py --seed {seed}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulated schedules of faults, see tests/README.md.")
    parser.add_argument("--seeds", type=int, default=1000, metavar="N", help="how many schedules")
    parser.add_argument("--start", type=int, default=0, metavar="S", help="the first seed")
    parser.add_argument("--seed", type=int, metavar="S", help="run this one only")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--verbose", action="store_true", help="with --seed: tell what happens")
    options = parser.parse_args()
    start, count = (options.start, options.seeds) if options.seed is None else (options.seed, 1)
    processes = max(1, min(options.processes, count // 50))
    folder = fast_folder()
    begun_s = time.monotonic()
    done: list[Summary] = []
    failed: list[int] = []
    try:
        outcomes = (
            iter([run_one(options.seed, folder, verbose=options.verbose)])
            if options.seed is not None
            else run_all(start, count, processes, folder)
        )
        for seed, summary, story in outcomes:
            if summary is not None:
                done.append(summary)
            else:
                failed.append(seed)
                if len(failed) == 1:
                    tell_failure(seed, story)
    finally:
        shutil.rmtree(folder)
    seconds = time.monotonic() - begun_s
    print(
        f"{count:,} schedules, {len(failed)} failed{f' (seeds {sorted(failed)[:20]})' if failed else ''}: "
        f"{sum(one.has_engine for one in done):,} with an engine, "
        f"{sum(one.crashes for one in done):,} crashes, {sum(one.starts for one in done):,} starts and "
        f"{sum(one.commits for one in done):,} commits of supervisors; "
        f"{sum(one.buffers for one in done):,} buffers, "
        f"{sum(one.streams for one in done):,} of them streams, "
        f"{sum(one.items for one in done):,} items, "
        f"{sum(one.messages for one in done):,} messages, {sum(one.executions for one in done):,} calls, "
        f"{sum(one.given_again for one in done):,} answers given again; "
        f"{sum(one.simulated_s for one in done) / 3600:,.0f} simulated hours in {seconds:,.0f} s "
        f"({60 * count / max(seconds, 1e-9):,.0f} schedules a minute, {processes} processes)"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
