"""What a service sees that is called under a limit: `example`, `limit`, `adaptive`."""

import argparse
import contextlib
import itertools
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from _bench.figures import progress
from _bench.processes import environment, rows, scratch
from _soak.processes import children_of

from _pace.app import CALLED_RATE, PROBED_MAX
from _pace.processes import LOOK_EVERY_S, completed, counts_of, daemon, service, sleep_until
from durable_bus.examples.limited_service import Call
from durable_bus.examples.paced_service import prompts


def excess_of(times_s: list[float], rate: float) -> float:
    """How many more than rate·T and one second's worth are in the worst window of all. Below 0: less."""
    excess, least = -math.inf, math.inf
    ordered_s = sorted(times_s)
    for count, time_s in enumerate(ordered_s):
        due = rate * (time_s - ordered_s[0])
        least = min(least, count - due)  # the window that begins here, or at an earlier one
        excess = max(excess, count + 1 - due - least - max(1.0, rate))
    return excess


# ---- example


def example(options: argparse.Namespace) -> dict[str, Any]:
    count, kills = options.prompts, []
    with scratch(options.folder) as own, service("--rate", "220", "--failing", "0.02") as url:
        journal = own / "asked.db"
        command = [sys.executable, "-m", "durable_bus.examples.paced_service", url, str(journal), str(count)]
        begun_s = time.monotonic()
        for number, share in enumerate((0.2, 0.45, 0.7), 1):
            process = subprocess.Popen(
                command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while not (supervisor_pid := supervisor_of(journal, number, int(share * count))):
                time.sleep(LOOK_EVERY_S)
            pids = [supervisor_pid, *children_of(supervisor_pid)]
            killed_s = time.monotonic()
            for pid in pids:
                with contextlib.suppress(
                    ProcessLookupError
                ):  # a worker ends by itself without its supervisor
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            kills.append(Kill(killed_s, time.monotonic(), in_hand(journal, count)))
        said = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True).stdout
        taken_s = time.monotonic() - begun_s
        counts = counts_of(url)
        spent = rows(journal, "SELECT item_index, amount FROM spending WHERE unit = 'usd'")
        results = rows(journal, "SELECT item_index, success, memo FROM results")
    first_s = counts.calls[0].arrived_s
    refused_s = [call.arrived_s for call in counts.calls if call.status == 429]
    lost = lost_calls(counts.calls, Counter(prompts(count)[index] for index, _ in spent))
    return {
        "said": said.splitlines(),
        "seconds": round(taken_s, 1),
        "prompts": count,
        "results": len(results),
        "answered_once": sum(success for _, success, _ in results),
        "from_memo": sum(memo for _, _, memo in results),
        "service": {"requests": counts.requests, "failed": counts.failed, "refused": counts.refused},
        "refused_behind_first_second": sum(1 for time_s in refused_s if time_s > first_s + 1),
        "service_answers": counts.answered,
        "spending_answers": len(spent),
        "usd_difference": round(counts.usd - sum(amount for _, amount in spent), 6),
        "in_hand_at_kills": [len(kill.in_hand) for kill in kills],
        **how_lost(lost, kills),
    }


class Kill(NamedTuple):
    """Supervisor and workers were killed."""

    at_s: float
    done_s: float
    """When all of them were gone, and the one that had started them, too."""
    in_hand: set[str]
    """What was asked and had no answer in the journal."""


def in_hand(journal: Path, count: int) -> set[str]:
    """The prompts that workers held and whose answer is not in the journal."""
    asked, held = prompts(count), rows(journal, "SELECT first_index, item_count FROM in_flight")
    recorded = {index for (index,) in rows(journal, "SELECT item_index FROM results")}
    indexes = {index for first, items in held for index in range(first, first + items)}
    return {asked[index] for index in indexes - recorded}


def lost_calls(calls: list[Call], spent: Counter[str]) -> list[Call]:
    """Calls that the service has answered, and whose costs are not in the journal. `spent`: how often they
    are, by prompt. What is recorded ends an item: it is the last call of its prompt.
    """
    answered: dict[str, list[Call]] = {}
    for call in calls:
        if call.status == 200:
            answered.setdefault(call.prompt, []).append(call)
    return [call for prompt, ones in answered.items() for call in ones[: len(ones) - spent[prompt]]]


def how_lost(lost: list[Call], kills: list[Kill]) -> dict[str, Any]:
    """Each call that is lost must have been in flight at the kill that ended its run: asked before, and not
    recorded by then.
    """
    before_s: list[float] = []
    under_way = elsewhere = 0
    for call in lost:
        kill = next((one for one in kills if call.arrived_s <= one.done_s), None)
        if kill is None or call.prompt not in kill.in_hand:
            elsewhere += 1
        elif call.ended_s > kill.at_s:
            under_way += 1
        else:
            before_s.append(kill.at_s - call.ended_s)
    return {
        "lost": len(lost),
        "lost_at_the_service_at_a_kill": under_way,
        "lost_on_the_way_to_the_journal": len(before_s),
        "answered_at_most_so_many_s_before_the_kill": round(max(before_s, default=0.0), 3),
        "lost_that_were_not_in_flight_at_a_kill": elsewhere,
    }


def supervisor_of(journal: Path, number: int, completed: int) -> int:
    """The pid of the run of this number, as soon as there are so many results; until then 0."""
    run = f"SELECT pid FROM runs, buffers WHERE run_id = {number} AND completed >= {completed}"
    try:
        return sum(pid for (pid,) in rows(journal, run))
    except sqlite3.OperationalError:  # there is no journal yet, or nothing in it
        return 0


def show_example(measured: dict[str, Any]) -> None:
    print(f"    example: {measured['prompts']:,} prompts in {measured['seconds']} s, killed three times")
    for line in measured["said"]:
        print(f"        {line}")
    for name in list(measured)[3:]:
        print(f"    {name.replace('_', ' ')}: {measured[name]}")


# ---- limit


def limit(options: argparse.Namespace) -> dict[str, Any]:
    count = int(CALLED_RATE * options.seconds)
    with service("--latency", "0.02") as url, daemon(options.folder, 4) as one:
        with one.client() as client:
            buffers = [
                client.start("call", [f"{name}{n}" for n in range(count)], buffer_id=name) for name in "ab"
            ]
            ids = [buffer.buffer_id for buffer in buffers]
        while not (calls := counts_of(url).calls):
            time.sleep(LOOK_EVERY_S)
        end_s = calls[0].arrived_s + options.seconds
        sleep_until(end_s - options.seconds / 2)
        progress("limit: kill -9")
        one.kill()
        one.start()
        sleep_until(end_s)
        recorded = [completed(one.journal, buffer_id) for buffer_id in ids]
        begun_s = [float(text) for (text,) in rows(one.journal, "SELECT payload FROM results WHERE success")]
        counts = counts_of(url)
    arrived_s = [call.arrived_s for call in counts.calls if call.arrived_s <= end_s]
    gaps_s = [later - before for before, later in itertools.pairwise(arrived_s)]
    return {
        "rate": CALLED_RATE,
        "seconds": options.seconds,
        "calls": len(arrived_s),
        "share_of_rate": round(len(arrived_s) / (CALLED_RATE * options.seconds), 4),
        "share_of_rate_and_burst": round(len(arrived_s) / (CALLED_RATE * (options.seconds + 1)), 4),
        "excess_as_arrived": round(excess_of(arrived_s, CALLED_RATE), 1),
        "excess_as_begun": round(excess_of(begun_s, CALLED_RATE), 1),
        "longest_gap_s": round(max(gaps_s), 3),
        "completed": recorded,
    }


def show_limit(measured: dict[str, Any]) -> None:
    print(
        f"    limit: {measured['rate']:g}/s, four workers, two buffers, {measured['seconds']:g} s, "
        "the supervisor killed half-way"
    )
    print(
        f"    {measured['calls']:,} calls: {measured['share_of_rate']:.1%} of rate·T, "
        f"{measured['share_of_rate_and_burst']:.1%} of rate·T and one second's worth"
    )
    print(
        f"    the worst window has {measured['excess_as_arrived']:+g} calls over what may be as they "
        f"arrived, {measured['excess_as_begun']:+g} as they began"
    )
    print(f"    longest gap {measured['longest_gap_s']} s; completed {measured['completed']}")


# ---- adaptive


def adaptive(options: argparse.Namespace) -> dict[str, Any]:
    every_s, capacity, latency_s = options.change_seconds, options.capacity, options.latency
    total_s = options.periods * every_s
    items = [str(n) for n in range(int(total_s * capacity / latency_s))]
    behave = ("--capacity", str(capacity), "--change-every", str(every_s), "--latency", str(latency_s))
    with service(*behave) as url, daemon(options.folder, 2) as one:
        with one.client() as client:
            client.start("probe", items)
        while not (capacities := counts_of(url).capacities):
            time.sleep(LOOK_EVERY_S)
        sleep_until(capacities[0][0] + total_s + 2 * latency_s)
        counts = counts_of(url)
    ended_s = sorted(call.ended_s for call in counts.calls if call.status == 200)
    periods = []
    for since_s, taken in counts.capacities[: options.periods]:
        from_s, until_s = since_s + every_s / 2, since_s + every_s
        rate = sum(1 for time_s in ended_s if from_s <= time_s < until_s) / (until_s - from_s)
        periods.append(
            {"capacity": taken, "answers_per_s": rate, "share": round(rate * latency_s / taken, 3)}
        )
    gaps_s = [later - before for before, later in itertools.pairwise(ended_s)]
    return {
        "latency_s": latency_s,
        "settled_s": every_s / 2,
        "periods": periods,
        "refused": counts.refused,
        "longest_gap_s": round(max(gaps_s), 3),
    }


def show_adaptive(measured: dict[str, Any]) -> None:
    whole = measured["periods"][0]["capacity"]
    print(
        f"    adaptive: at most {PROBED_MAX} at once, a service that takes {whole} and {whole // 2} "
        f"by turns, {measured['latency_s']:g} s each; from {measured['settled_s']:g} s after each change on"
    )
    for period in measured["periods"]:
        print(
            f"    capacity {period['capacity']:3}: {period['answers_per_s']:6.1f} answers/s, "
            f"{period['share']:.3f} of it"
        )
    print(
        f"    {measured['refused']:,} refused; longest time without an answer {measured['longest_gap_s']} s"
    )
