"""`submissions`: many client processes that submit small buffers to one daemon.

Three loads, each on a daemon of its own. *Paced*: client processes of one connection each start buffers at a
steady pace, all together --submit-rate a second, and do not wait for their ends; whether the last start was
acknowledged or not, the next is due, so each has a few threads to start from. *One by one*: the same with one
thread each, so that a slow answer delays the next start. *At once*: --connections of them, as many as a
daemon takes, a thread each, shared out over the client processes; each starts a buffer, waits for its end,
and starts the next.
"""

import argparse
import multiprocessing
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from _bench.app import items_of
from _bench.figures import percentiles, progress, show_percentiles
from _bench.processes import cpu_s, daemon, keyboard_shut, peak_mb, rows
from durable_bus import Client
from durable_bus.errors import DurableBusError

SUBMIT_ITEMS = 10
PACED_THREADS = 4
"""From which a client of the first load starts its buffers."""
BUFFERS_EACH = 20
"""How many buffers each connection starts, in the last load."""
CONNECTIONS_MAX = 64
"""What a daemon takes, by default."""
PATIENCE_S = 120.0
"""How long buffers may take to end after the last was submitted, before they count as errors."""


@dataclass(frozen=True)
class Load:
    """What one client process does."""

    journal: Path
    connections: int
    threads: int
    """For each connection."""
    buffers_each: int
    """For each thread."""
    every_s: float
    """A thread's pace; 0: the next buffer as soon as the last has ended."""
    begin_after_s: float
    """So that paced clients do not submit in step."""
    payload: str


class Submission(NamedTuple):
    """One buffer; times by the monotonic clock, which all processes of a machine share."""

    buffer_id: str
    due_s: float
    called_s: float
    acknowledged_s: float
    completed_s: float | None
    """When `wait` returned; None where nobody waited."""


# ---- in a client process


def client_process(load: Load, pipe: Connection) -> None:
    """Connect, say so, begin when told to; then send what was done, and the errors."""
    submissions: list[Submission] = []
    errors: list[str] = []
    items = items_of(load.payload, SUBMIT_ITEMS)

    def submit_all(client: Client, begin_s: float) -> None:
        time.sleep(max(0.0, begin_s - time.monotonic()))
        for turn in range(load.buffers_each):
            due_s = begin_s + turn * load.every_s if load.every_s else time.monotonic()
            time.sleep(max(0.0, due_s - time.monotonic()))
            called_s = time.monotonic()
            try:
                buffer = client.start("echo", items)
                acknowledged_s = time.monotonic()
                completed_s = None
                if not load.every_s:
                    buffer.wait(PATIENCE_S)
                    completed_s = time.monotonic()
            except Exception as error:  # counted and printed, whatever it is
                errors.append(f"{type(error).__name__}: {error}")
            else:
                submissions.append(Submission(buffer.buffer_id, due_s, called_s, acknowledged_s, completed_s))

    clients = []
    for _ in range(load.connections):
        try:
            clients.append(Client(load.journal))
        except DurableBusError as error:
            errors.append(f"no connection: {type(error).__name__}: {error}")
    pipe.send("ready")
    begin_s = pipe.recv() + load.begin_after_s
    threads = [
        threading.Thread(target=submit_all, args=(client, begin_s + number * load.every_s / load.threads))
        for client in clients
        for number in range(load.threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    pipe.send((submissions, errors))


# ---- in the bench


def run_clients(loads: list[Load]) -> tuple[float, list[Submission], list[str]]:
    """Run a client process for each load; when they began, what they submitted, and their errors."""
    context = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    try:
        for load in loads:
            ours, theirs = context.Pipe()
            process = context.Process(target=client_process, args=(load, theirs), daemon=True)
            with keyboard_shut():
                process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        for pipe in pipes:
            pipe.recv()
        begin_s = time.monotonic() + 0.1
        for pipe in pipes:
            pipe.send(begin_s)
        submissions: list[Submission] = []
        errors: list[str] = []
        for number, pipe in enumerate(pipes):
            try:
                submitted, failed = pipe.recv()
            except EOFError:
                submitted, failed = [], [f"client process {number} died"]
            submissions += submitted
            errors += failed
        return begin_s, submissions, errors
    finally:
        for process in processes:
            process.terminate()
            process.join()


def until_ended(journal: Path, submissions: list[Submission]) -> tuple[dict[str, float], list[str]]:
    """When each buffer was complete by the journal, in seconds since the epoch; what was not, as errors."""
    deadline_s = time.monotonic() + PATIENCE_S
    while rows(journal, "SELECT count(*) FROM buffers WHERE state = 'open'") != [(0,)]:
        if time.monotonic() > deadline_s:
            break
        time.sleep(0.1)
    completed_at = {
        buffer_id: datetime.fromisoformat(text).timestamp()
        for buffer_id, text in rows(
            journal,
            "SELECT buffer_id, completed_at FROM buffers"
            f" WHERE state = 'complete' AND total = {SUBMIT_ITEMS} AND successful = {SUBMIT_ITEMS}",
        )
    }
    unended = [s.buffer_id for s in submissions if s.buffer_id not in completed_at]
    return completed_at, [f"{buffer_id} is not complete" for buffer_id in unended]


def measure(options: argparse.Namespace, loads_of: Any) -> dict[str, Any]:
    """One load on a daemon of its own."""
    epoch_s = time.time() - time.monotonic()
    with daemon(options.folder, options.workers) as (journal, pid):
        loads = loads_of(journal)
        cpu_before_s = cpu_s(pid)
        begun_s, submissions, errors = run_clients(loads)
        completed_at, unended = until_ended(journal, submissions)
        errors += unended
        supervisor_cpu_s = cpu_s(pid) - cpu_before_s
        supervisor_peak_mb = round(peak_mb(pid), 1)
    measured: dict[str, Any] = {
        "client_processes": len(loads),
        "connections": sum(load.connections for load in loads),
        "items_each": SUBMIT_ITEMS,
        "buffers": len(submissions),
        "errors": len(errors),
        "first_errors": errors[:5],
        "supervisor_peak_mb": supervisor_peak_mb,
    }
    if not submissions:
        return measured
    completed_s = [
        s.completed_s or completed_at.get(s.buffer_id, epoch_s + s.called_s) - epoch_s for s in submissions
    ]
    return {
        **measured,
        "all_acknowledged_s": round(max(s.acknowledged_s for s in submissions) - begun_s, 3),
        "buffers_per_s": round(len(submissions) / (max(s.acknowledged_s for s in submissions) - begun_s), 1),
        "supervisor_cpu_us_per_buffer": round(1e6 * supervisor_cpu_s / len(submissions)),
        "acknowledged": percentiles(s.acknowledged_s - s.called_s for s in submissions),
        "acknowledged_after_due": percentiles(s.acknowledged_s - s.due_s for s in submissions),
        "complete": percentiles(
            done_s - s.called_s for s, done_s in zip(submissions, completed_s, strict=True)
        ),
    }


def submissions(options: argparse.Namespace) -> dict[str, Any]:
    """Errors, the rate, and the latency of submitting and of completion, under each load."""
    clients, connections = options.clients, options.connections

    def paced(threads: int, journal: Path) -> list[Load]:
        every_s = clients * threads / options.submit_rate
        turns = max(1, round(options.submit_seconds / every_s))
        return [
            Load(journal, 1, threads, turns, every_s, number / options.submit_rate, options.payload)
            for number in range(clients)
        ]

    def at_once(journal: Path) -> list[Load]:
        shares = [len(range(number, connections, clients)) for number in range(clients)]
        return [Load(journal, share, 1, BUFFERS_EACH, 0.0, 0.0, options.payload) for share in shares if share]

    measured: dict[str, Any] = {}
    for name, threads in (("paced", PACED_THREADS), ("one_by_one", 1)):
        progress(
            f"submissions: {clients} clients, {threads} threads each, {options.submit_rate:g} buffers/s "
            f"for {options.submit_seconds:g} s"
        )
        of_load = measure(options, partial(paced, threads))
        measured[name] = {"asked_buffers_per_s": options.submit_rate, "threads_each": threads, **of_load}
    progress(f"submissions: {connections} connections at once, {BUFFERS_EACH} buffers each")
    measured["at_once"] = {"threads_each": 1, **measure(options, at_once)}
    return measured


def show_submissions(measured: dict[str, Any]) -> None:
    for name, facts in measured.items():
        how = (
            f"{facts['asked_buffers_per_s']:,g} a second asked for"
            if name != "at_once"
            else "each waits for a buffer's end before the next"
        )
        print(
            f"    submissions, {name.replace('_', ' ')}: {facts['connections']} connections in "
            f"{facts['client_processes']} processes, {facts['threads_each']} starting from each, "
            f"{facts['items_each']}-item buffers, {how}"
        )
        print(f"    {facts['buffers']:,} buffers, errors {facts['errors']} (goal 0)")
        for error in facts["first_errors"]:
            print(f"        {error}")
        if "buffers_per_s" not in facts:
            continue
        print(
            f"    {facts['buffers_per_s']:,.0f} buffers/s acknowledged, over "
            f"{facts['all_acknowledged_s']:.1f} s; supervisor: "
            f"{facts['supervisor_cpu_us_per_buffer']} µs of processor time a buffer, "
            f"peak {facts['supervisor_peak_mb']:.0f} MB"
        )
        show_percentiles("acknowledged, after the call", facts["acknowledged"])
        if name != "at_once":
            show_percentiles("acknowledged, after it was due", facts["acknowledged_after_due"])
            show_percentiles("complete in the journal, after the call", facts["complete"])
        else:
            show_percentiles("complete, wait returned, after the call", facts["complete"])
