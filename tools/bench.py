#!/usr/bin/env python3
"""Measure durable_bus, beside multiprocessing and by itself. Nothing here asserts anything about time.

    tools/bench.py --items 200000 --workers 2         throughput and latency: two minutes
    tools/bench.py --only all                         all sections: ten minutes
    tools/bench.py --only awaits,beside               some of them; --json prints JSON instead of tables

**The job** is an XML echo: parse the item with lxml, serialise it back. An item is a search query as an
agent fans them out: an element in another, two attributes, 80 to 94 bytes (mean 88), different for every
index, one in ten with a character outside ASCII. `--payload order` takes a shop's orders instead: 7 to 10
elements, 244 to 396 bytes (mean 317), three in ten with such characters. The choice matters: the larger an
item, the more its parsing and serialising, which are the same for everybody, outweigh everybody's overhead;
a/c rises and a/e falls. All variants get the same items, held in a list before any clock starts.

**throughput**: items a second, each variant with the same number of workers, up and warmed before its clock
starts: a small buffer has reached every worker (multiprocessing: every worker has imported the app and echoed
something).

    a   durable_bus, durability full (an fsync a commit): from `start` until `wait` has returned
    a2  the same run, until `list(buffer.results())` is read as well
    b   durable_bus, durability normal (no fsync a commit), until `wait` has returned
    c   multiprocessing.Pool.imap_unordered(chunksize=256), spawned workers, until all answers are in a list
    d   the same with chunksize=1
    e   concurrent.futures.ProcessPoolExecutor.map(chunksize=1), spawned workers

d and e take a subset of the items where there are many (the table says how many), because they are slow;
rates are compared. A round runs every variant once, one after the other, and every second round in the
opposite order; a ratio is taken within a round, and what is printed is the median over the rounds: noise of
the machine hits both sides. Memory is the peak resident set (VmHWM) of the supervisor at the end of each run
of a.

**latency**: a buffer of one item on an idle bus, from `start` until `wait` has returned.

**awaits**: 10,000 items that each await 100 ms, 500 at once in each worker, in one buffer, from `start` until
`wait` has returned, after four small buffers from which the supervisor has learned the listener's pace. Two
workers would take 1.0 s if nothing else took time.

**beside**: fifty ten-item buffers, one after the other, from `start` until `wait` has returned: on the idle
bus, then while a buffer of a million items to the same listener runs.

**submissions**: client processes against `durable-bus serve`. First eight, of one connection and four threads
each, that submit 1,000 ten-item buffers a second together for ten seconds, at a steady pace that does not
wait for slow acknowledgements; a buffer counts as complete at the time of the commit that recorded that, as
the journal has it. Then the same with one thread each, which starts a buffer only when the last was
acknowledged. Then 64 connections, as many as a daemon takes, in threads of eight processes: each submits
twenty such buffers and waits for each.

**flood**: ten-item buffers, one after the other, from the call of `start` until it is acknowledged: with
nobody else there, then beside a client that says `status` without end and reads nothing of what it is told,
or all. Memory is the supervisor's peak.

**journal**: `status`, `check`, `replay show` and `results` on a journal of a million results, beside a bare
interpreter's start, with the peak memory of each: on a journal that a run has written with a handler that
returns its text, and on one where each item was a batch of its own (made by tests/synthetic.py).

**million**: variant a with a million items beside variant a with --items, in paired rounds.

**cost**: the processor time that the supervisor takes for an item of variant a, from `start` until `wait` has
returned, by Linux's clock of that process. Beside it what SQLite takes alone: in one process, into a file in
the same folder, with the supervisor's own settings and statements, the rows that the run has left: items in
the same chunks, batches read back, answers in the same frames and in the same order, counters, dispatches, in
as many commits. And what the parent of variant c takes. What else the machine does stretches the wall's time,
and processor time less: it throws our data out of the caches.

**cores**: items a second for 1, 2, 4, … workers, up to the machine's cores, of the XML echo and of items that
take 100 µs and 1 ms of a core; and for 2 to 64 workers of items that sleep 1 ms and 10 ms. Beside it a
multiprocessing.Pool (imap_unordered) and a ProcessPoolExecutor (map) with as many workers, all of them up and
warm before and for all rounds. Of the chunk sizes 1, 4, 16, 64 and 256 each is tried once for both, and the
fastest takes part in the rounds. Each worker gets --cores-seconds of work in each run. Also how many
dispatches a run took, and how many of them were taken back for another worker, by the view `dispatches`.

**small**: a buffer of thirty items that sleep 1 ms on a warm daemon, a hundred times for each number of
workers, beside what it would take if nothing else took time (and what a sleep of 1 ms really takes here). A
buffer of one item on an idle daemon, and two fdatasyncs of 4 KiB after each of them; and ten such buffers,
one after the other, while --small-open buffers of 500 sleeping items are open.

**forms**: JSON objects of 300 bytes, dict in and dict out, beside text of the same length, str in and str
out: items a second until `wait` has returned, in paired rounds. And what is asked of --journal-results such
answers in SQL, one in a hundred of them failed: the shortest of three.

**map**: `durable_bus.map` beside multiprocessing.Pool.imap (chunks of 256) and joblib.Parallel, with nothing
running before and nothing after: items a second, processes started and ended within it, in paired rounds. Of
--items that take no time, and of as many as keep all workers busy for --map-seconds.

**console**: a journal of --journal-results results in --console-buffers buffers, a daemon that does some
5,000 items/s on it, and the console: the first byte of each page, asked --console-samples times, and its
size; the console's processor time while one page is open, which is fetched at each event; fifty event streams
for --console-seconds, and what is left of them; its peak memory. It needs the extra web, and httpx.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from _bench.app import PAYLOADS
from _bench.big_journal import big_journal, show_big_journal
from _bench.console import console, show_console
from _bench.cores import cores, doubled_cores, show_cores
from _bench.cost import cost, show_cost
from _bench.figures import progress
from _bench.flood import flood, show_flood
from _bench.forms import forms, show_forms
from _bench.machine import machine
from _bench.mapping import mapping, show_mapping
from _bench.sections import INTERRUPTED, Sections
from _bench.small import show_small, small
from _bench.submissions import CONNECTIONS_MAX, show_submissions, submissions
from _bench.throughput import million, show_million, show_throughput, throughput
from _bench.waiting import awaits, beside, latency, show_awaits, show_beside, show_latency

SECTIONS: Sections = {
    "throughput": (throughput, show_throughput),
    "latency": (latency, show_latency),
    "awaits": (awaits, show_awaits),
    "beside": (beside, show_beside),
    "submissions": (submissions, show_submissions),
    "flood": (flood, show_flood),
    "journal": (big_journal, show_big_journal),
    "million": (million, show_million),
    "cost": (cost, show_cost),
    "cores": (cores, show_cores),
    "small": (small, show_small),
    "forms": (forms, show_forms),
    "map": (mapping, show_mapping),
    "console": (console, show_console),
}
UNASKED = "throughput,latency"
COUNTS = {
    "items": (200_000, "throughput's, and the fewer of million's"),
    "workers": (len(os.sched_getaffinity(0)), "default: the usable cores"),
    "rounds": (3, "how often each thing is measured, where the median of several counts"),
    "latency_samples": (200, ""),
    "awaits_items": (10_000, ""),
    "beside_items": (1_000_000, "of the big buffer"),
    "clients": (8, "client processes of submissions"),
    "connections": (CONNECTIONS_MAX, "at once, of submissions' last load"),
    "flood_starts": (200, "beside each flood, and as many without it"),
    "journal_results": (1_000_000, ""),
    "small_samples": (100, "buffers of each kind of small"),
    "million_items": (1_000_000, "the more of million's"),
    "small_open": (200, "buffers that are open beside small's"),
    "console_buffers": (10_000, "that have the --journal-results of console's journal"),
    "console_samples": (30, "how often each of its pages is asked"),
    "console_items": (2_000_000, "of the buffer that is worked on meanwhile"),
}
"""Options that take a whole number: the default, and what it is for."""


LISTS = {
    "cores_list": (doubled_cores(), "numbers of workers of cores' jobs that keep a core busy"),
    "sleepers_list": ([2, 8, 14, 32, 64], "numbers of workers of cores' jobs that sleep"),
    "small_list": ([2, 3, 4, 8, 16], "numbers of workers of small"),
}
"""Options that take whole numbers above 0: the default, and what they are for."""


def whole_numbers(text: str) -> list[int]:
    numbers = [int(word) for word in text.split(",")]
    if min(numbers) < 1:
        raise ValueError("a number below 1")
    return numbers


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="The top of this file says what is measured, and how.",
    )
    parser.add_argument(
        "--only", default=UNASKED, help=f"sections, or all: {','.join(SECTIONS)}; default: {UNASKED}"
    )
    for name, (default, help_text) in COUNTS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=default, metavar="N", help=help_text
        )
    parser.add_argument("--payload", choices=list(PAYLOADS), default="query", help="what the items are")
    parser.add_argument(
        "--variants", default="abcde", help="which of throughput's, such as ac; a includes a2"
    )
    parser.add_argument("--submit-rate", type=float, default=1000.0, help="buffers a second, all clients'")
    parser.add_argument("--submit-seconds", type=float, default=10.0)
    for name, (counts, help_text) in LISTS.items():
        default_text = ",".join(map(str, counts))
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=whole_numbers,
            default=counts,
            metavar="N,N",
            help=f"{help_text}; default: {default_text}",
        )
    parser.add_argument(
        "--cores-seconds", type=float, default=1.0, help="how much work each worker of cores gets in a run"
    )
    parser.add_argument(
        "--map-seconds", type=float, default=10.0, help="how long the items of map that take time take"
    )
    parser.add_argument("--console-seconds", type=float, default=60.0, help="how long console's streams last")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where journals go")
    parser.add_argument("--json", action="store_true", help="print JSON, at the end")
    options = parser.parse_args(arguments)
    options.only = list(SECTIONS) if options.only == "all" else options.only.split(",")
    unknown = set(options.only) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown section {', '.join(sorted(unknown))}; there are: {', '.join(SECTIONS)}")
    for name in COUNTS:
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if options.connections > CONNECTIONS_MAX:
        parser.error(f"--connections: a daemon takes {CONNECTIONS_MAX}")
    for name in ("submit_rate", "submit_seconds", "cores_seconds", "map_seconds", "console_seconds"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
    if not options.variants or not set(options.variants) <= set("abcde"):
        parser.error("--variants takes letters from a to e")
    return options


def payload_facts(options: argparse.Namespace) -> dict[str, Any]:
    """What the items of this run are, by some of them."""
    lengths = [len(PAYLOADS[options.payload](index).encode()) for index in range(min(options.items, 100_000))]
    return {"name": options.payload, "mean_bytes": round(sum(lengths) / len(lengths), 1)}


def show_header(report: dict[str, Any]) -> None:
    print(f"$ {report['command']}")
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    print(f"items {report['items']:,}, workers {report['workers']}, rounds {report['rounds']}")
    payload = report["payload"]
    print(
        f"an item is an XML {payload['name']}, {payload['mean_bytes']:.0f} bytes on average; "
        "with larger ones the XML work itself outweighs everybody's overhead: a/c rises, a/e falls",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    options = options_of(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    sections: dict[str, Any] = {}
    report: dict[str, Any] = {
        "command": shlex.join(["tools/bench.py", *words]),
        "machine": machine(options.folder),
        "items": options.items,
        "workers": options.workers,
        "rounds": options.rounds,
        "payload": payload_facts(options),
        "sections": sections,
    }
    if not options.json:
        show_header(report)
    try:
        for name in options.only:
            measure, show = SECTIONS[name]
            sections[name] = measure(options)
            if not options.json:
                print()
                show(sections[name])
                sys.stdout.flush()
    except KeyboardInterrupt:
        progress(f"interrupted in {name}")
        return INTERRUPTED
    report["load_after"] = round(os.getloadavg()[0], 1)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"\nload before {report['machine']['load_before']}, after {report['load_after']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
