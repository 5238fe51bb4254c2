"""`journal`: how long the commands take on a journal of a million results, and how much memory."""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from _bench import ROOT
from _bench.app import bus
from _bench.figures import progress
from _bench.processes import DURABLE_BUS, environment, run_command, scratch

BUFFER_ID = "big"
GOALS = {
    "status": "below 0.3 s",
    "metrics": "below 1 s in batches",
    "replay show": "below 2 s",
    "check": "below 20 s",
    "results": "200,000 rows/s or more",
}


def big_journal(options: argparse.Namespace) -> dict[str, Any]:
    """The commands on a journal that a real run has written; and on one of as many results, as somebody
    would have whose items take so long that each is a batch of its own, which is made row by row.
    """
    count = options.journal_results
    with scratch(options.folder) as own:
        run, alone = own / "run.db", own / "alone.db"
        progress(f"journal: running {count:,} items")
        with bus.running(journal=run, workers=options.workers) as client:
            items = (f"item {index}" for index in range(count))
            assert client.start("keep", items, buffer_id=BUFFER_ID).wait().successful == count
        of_run = commands(run, count, options.rounds)
        progress(f"journal: making {count:,} results, one item a batch")
        maker = [sys.executable, str(ROOT / "tests" / "synthetic.py"), str(alone), str(count), "1"]
        subprocess.run(maker, env=environment(), stdin=subprocess.DEVNULL, check=True)
        return {
            "interpreter": timed("interpreter", options.rounds, sys.executable, "-c", "pass"),
            "written_by_a_run": of_run,
            "one_item_a_batch": commands(alone, count, options.rounds),
        }


def commands(journal: Path, count: int, times: int) -> dict[str, Any]:
    """Every command on this journal, so many times; `check`, which is the longest, once."""
    at = ("--journal", str(journal))
    measured: dict[str, Any] = {
        "results_recorded": count,
        "journal_mb": round(journal.stat().st_size / 1e6, 1),
        "status": timed("status", times, *DURABLE_BUS, "status", *at),
        "metrics": timed("metrics", times, *DURABLE_BUS, "metrics", *at),
        "replay show": timed("replay show", times, *DURABLE_BUS, "replay", "show", *at),
        "check": timed("check", 1, *DURABLE_BUS, "check", *at),
        "results": timed("results", times, *DURABLE_BUS, "results", BUFFER_ID, "--format", "jsonl", *at),
    }
    measured["results"]["rows_per_s"] = round(count / measured["results"]["wall_s"], 1)
    return measured


def timed(name: str, times: int, *command: str) -> dict[str, Any]:
    """The median of its wall times, the highest of its peaks. Raises RuntimeError when it fails: exit code 1
    only says that some items have.
    """
    runs = [run_command(*command) for _ in range(times)]
    codes = {run.exit_code for run in runs}
    if not codes <= ({0, 1} if name == "results" else {0}):
        raise RuntimeError(f"{name} ended with {codes}")
    wall_s = statistics.median(run.wall_s for run in runs)
    progress(f"journal: {name} {wall_s:.2f} s")
    return {
        "runs": times,
        "wall_s": round(wall_s, 3),
        "peak_mb": round(max(run.peak_mb for run in runs), 1),
    }


def show_big_journal(measured: dict[str, Any]) -> None:
    bare = measured["interpreter"]
    print(f"    {'journal: commands, output to /dev/null':56}{'wall':>9}{'peak memory':>14}")
    print(f"    {'python -c pass':56}{bare['wall_s']:7.3f} s{bare['peak_mb']:11.0f} MB")
    for key, label in (("written_by_a_run", "by a run"), ("one_item_a_batch", "one item a batch")):
        facts = measured[key]
        print(f"    {facts['results_recorded']:,} results, {label}, {facts['journal_mb']:,.0f} MB")
        for name, goal in GOALS.items():
            used = facts[name]
            more = f"{used['wall_s'] - bare['wall_s']:.3f} s more than the interpreter"
            if name == "results":
                more = f"{used['rows_per_s']:,.0f} rows/s"
            print(
                f"      {f'durable-bus {name}' + (' --format jsonl' if name == 'results' else ''):54}"
                f"{used['wall_s']:7.3f} s{used['peak_mb']:11.0f} MB   {more} (goal: {goal})"
            )
