"""`cost`: the processor time that the supervisor takes for an item, beside what SQLite and a pool take."""

import argparse
import sqlite3
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from _bench.app import echo_text, items_of
from _bench.figures import of_rounds, paired, progress
from _bench.processes import durable, rows, scratch
from _bench.throughput import POOL_CHUNK_ITEMS, warm_pool
from durable_bus.journal.connection import open_writer
from durable_bus.journal.formats import INDEX_BITS
from durable_bus.journal.journal import WRITER_SQL
from durable_bus.journal.schema import upgrade
from durable_bus.journal.statements import AT_END_ROWS_MIN, ROWS_AT_ONCE, load, with_rows

LABELS = {
    "supervisor": "durable_bus's supervisor",
    "sqlite": "SQLite alone, the same rows and commits",
    "pool": f"Pool's parent, chunksize {POOL_CHUNK_ITEMS}",
}
RATIOS = ("supervisor/sqlite", "supervisor/pool")


def cost(options: argparse.Namespace) -> dict[str, Any]:
    """Microseconds of processor time an item, in paired rounds."""
    items = items_of(options.payload, options.items)
    item_us: dict[str, list[float]] = {name: [] for name in LABELS}
    done: dict[str, int] = {}
    for number in range(options.rounds):
        supervisor_s, history = supervised(options.folder, options.workers, items)
        sides = {
            "sqlite": lambda history=history: repeated(options.folder, history, items),
            "pool": lambda: pooled(options.workers, items),
        }
        seconds = {"supervisor": supervisor_s}
        for name in sides if number % 2 == 0 else reversed(sides):
            seconds[name] = sides[name]()
        for name, taken_s in seconds.items():
            item_us[name].append(taken_s / len(items) * 1e6)
        done = history.counts()
        last = ", ".join(f"{name} {item_us[name][-1]:.2f}" for name in LABELS)
        progress(f"cost, round {number + 1} of {options.rounds}: {last} us an item")
    return {
        "items": len(items),
        "item_us": {name: of_rounds(values, 3) for name, values in item_us.items()},
        "ratios": {ratio: paired(*(item_us[name] for name in ratio.split("/"))) for ratio in RATIOS},
        "last_round": done,
    }


def show_cost(measured: dict[str, Any]) -> None:
    print(f"    cost: processor time an item, of {measured['items']:,} items in one buffer")
    for name, label in LABELS.items():
        facts = measured["item_us"][name]
        print(f"    {label:44}{facts['median']:8.2f} us, median of {facts['rounds']}")
    for ratio, facts in measured["ratios"].items():
        print(f"    {ratio:44}{facts['median']:8.2f}   of the rounds: {facts['rounds']}")
    counts = ", ".join(f"{count:,} {name}" for name, count in measured["last_round"].items())
    print(f"    (goal: supervisor/sqlite 1.3 or less; the last round had {counts})")


# ---- the supervisor


class History(NamedTuple):
    """What a run has written of a buffer, by its commits."""

    buffer: dict[str, Any]
    """Its row."""
    chunks: list[list[tuple[int, int]]]
    """Of each commit while it was received: the chunks, as (first index, end index)."""
    answers: dict[int, list[tuple[Any, ...]]]
    """Of each commit from then on, rows of `answer`,"""
    begun: dict[int, list[tuple[Any, ...]]]
    """rows of `dispatch` that begin with it,"""
    ended: dict[int, list[int]]
    """and dispatches that end with it."""

    def counts(self) -> dict[str, int]:
        return {
            "chunks": sum(map(len, self.chunks)),
            "dispatches": sum(map(len, self.begun.values())),
            "frames of answers": sum(map(len, self.answers.values())),
            "commits": len(self.chunks) + len(self.later_commits()),
        }

    def later_commits(self) -> list[int]:
        return sorted({*self.answers, *self.begun, *self.ended})


def supervised(folder: Path, workers: int, items: list[str]) -> tuple[float, History]:
    """Run the items: the processor time that the supervisor took for them, and what it has written."""
    with durable(folder, workers) as client:
        begun_s = processor_s(client.supervisor_pid)
        complete = client.start("echo", items).wait()
        taken_s = processor_s(client.supervisor_pid) - begun_s
        assert complete.successful == len(items)
        return taken_s, history_of(client.journal)


def processor_s(pid: int) -> float:
    """What a process has taken so far, all its threads together: Linux has a clock for each process
    (clock_getcpuclockid), which goes in nanoseconds where /proc/PID/stat goes in ticks of 10 ms.
    """
    return time.clock_gettime(~pid << 3 | 2)


def history_of(journal: Path) -> History:
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        buffer = dict(connection.execute("SELECT * FROM buffer ORDER BY buffer_seq DESC LIMIT 1").fetchone())
    seq, total, chunk_count = buffer["buffer_seq"], buffer["total"], buffer["next_chunk"]
    chunk_items = -(-total // chunk_count)
    bounds = [(first, min(total, first + chunk_items)) for first in range(0, total, chunk_items)]
    # Which commit took which chunk is not kept: as evenly as can be.
    commit_count = max(1, min(chunk_count, buffer["opened_commit"] - buffer["created_commit"]))
    shares = [number * len(bounds) // commit_count for number in range(commit_count + 1)]
    answers = rows(
        journal,
        f"SELECT commit_id, dispatch_id, first_index, item_count, worker_pid, durations FROM answer "
        f"WHERE buffer_seq = {seq} ORDER BY answer_id",
    )
    dispatches = rows(
        journal,
        f"SELECT commit_id, dispatch_id, first_index, item_count, worker_pid, ended_commit FROM dispatch "
        f"WHERE buffer_seq = {seq} AND ended_how = 'answered' ORDER BY dispatch_id",
    )
    return History(
        buffer,
        [bounds[first:end] for first, end in pairwise(shares)],
        grouped(answers),
        grouped(dispatches),
        {commit_id: [one[1] for one in ended] for commit_id, ended in grouped(dispatches, by=5).items()},
    )


def grouped(facts: list[tuple[Any, ...]], by: int = 0) -> dict[int, list[tuple[Any, ...]]]:
    groups: dict[int, list[tuple[Any, ...]]] = {}
    for row in facts:
        groups.setdefault(row[by], []).append(row)
    return groups


# ---- SQLite alone


def repeated(folder: Path, history: History, items: list[str]) -> float:
    """Write the same rows into a fresh journal in the same commits, and read the same batches, without us:
    the processor time that takes.
    """
    with scratch(folder) as own:
        path = own / "journal.db"
        with closing(open_writer(path)) as connection:
            upgrade(connection, path, big_ones=False)
            connection.execute("PRAGMA foreign_keys = OFF")  # as in every connection; no run, no threads
            bare = Bare(connection, history)
            begun_s = time.process_time()
            bare.receive(items)
            for commit_id in history.later_commits():
                bare.commit(commit_id, items)
            taken_s = time.process_time() - begun_s
            counted = connection.execute("SELECT (SELECT count(*) FROM item), (SELECT count(*) FROM result)")
            assert counted.fetchone() == (len(items), len(items))
            return taken_s


class Bare:
    """The supervisor's own statements, one after the other."""

    def __init__(self, connection: sqlite3.Connection, history: History) -> None:
        self._cursor = connection.cursor()
        self._execute = self._cursor.execute
        self._texts = load(*WRITER_SQL)
        self._history = history
        self._seq = history.buffer["buffer_seq"]
        self._first_key = self._seq << INDEX_BITS
        self._last_keys: dict[str, int] = {}
        self._recorded = self._answer_id = self._commits = 0

    def _insert(self, name: str, constants: tuple[int, ...], first: int, texts: list[str]) -> None:
        last = self._last_keys.get(name, 0)
        at_end = len(texts) >= AT_END_ROWS_MIN and self._first_key + first > last
        self._last_keys[name] = max(last, self._first_key + first + len(texts) - 1)
        for size in ROWS_AT_ONCE:
            statement = with_rows(self._texts[name], size, at_end=at_end)
            while len(texts) >= size:
                self._execute(statement, (self._first_key + first, *constants, *texts[:size]))
                first += size
                texts = texts[size:]

    def _close(self, results: int) -> None:
        self._commits += 1
        now_ms = time.time_ns() // 1_000_000
        facts = {"commit_id": self._commits, "run_id": 1, "now_ms": now_ms, "results": results, "failures": 0}
        self._execute(self._texts["add_commit"], facts)
        self._execute("COMMIT")

    def receive(self, items: list[str]) -> None:
        row = {**self._history.buffer, "now_ms": 0, "commit_id": 1}
        for number, chunks in enumerate(self._history.chunks):
            self._execute("BEGIN IMMEDIATE")
            if number == 0:
                begun = {"received": 0, "next_chunk": 0, "total": None, "digest": None, "opened_commit": None}
                self._execute(self._texts["add_buffer"], {**row, **begun})
            for first, end in chunks:
                self._insert("add_items", (1,), first, items[first:end])
            if number == len(self._history.chunks) - 1:
                facts = {"total": len(items), "received": len(items)}
                self._execute(
                    "UPDATE buffer SET total = :total, received = :received, digest = '', opened_commit = 1,"
                    " sealed_commit = 1",
                    facts,
                )
            self._close(0)

    def commit(self, commit_id: int, items: list[str]) -> None:
        self._execute("BEGIN IMMEDIATE")
        results = 0
        for answer in self._history.answers.get(commit_id, []):
            results += self._answer(commit_id, answer, items)
        for dispatch_id in self._history.ended.get(commit_id, []):
            how = {"dispatch_id": dispatch_id, "how": "answered", "commit_id": commit_id}
            self._execute(self._texts["end_dispatch"], how)
        for dispatch in self._history.begun.get(commit_id, []):
            self._dispatch(commit_id, dispatch)
        self._close(results)

    def _answer(self, commit_id: int, answer: tuple[Any, ...], items: list[str]) -> int:
        _, dispatch_id, first, count, worker_pid, durations = answer
        self._answer_id += 1
        constants = (1, 1, self._answer_id)
        self._insert("add_results", constants, first, items[first : first + count])
        facts = {
            "answer_id": self._answer_id,
            "commit_id": commit_id,
            "dispatch_id": dispatch_id,
            "buffer_seq": self._seq,
            "first_index": first,
            "item_count": count,
            "recorded": count,
            "success": 1,
            "attempt": 1,
            "worker_pid": worker_pid,
            "durations": durations,
            "memo": 0,
            "place": None,
        }
        self._execute(self._texts["add_answer"], facts)
        self._recorded += count
        last = self._recorded == len(items)
        counted = {"buffer_seq": self._seq, "succeeded": count, "failed": 0}
        if last:
            counted["commit_id"] = commit_id
        self._execute(self._texts["count_last_results" if last else "count_results"], counted)
        return int(count)

    def _dispatch(self, commit_id: int, dispatch: tuple[Any, ...]) -> None:
        _, dispatch_id, first, count, worker_pid, _ = dispatch
        first_key = self._first_key + first
        self._execute(self._texts["items_packed"], {"first_key": first_key, "end_key": first_key + count})
        self._cursor.fetchall()
        facts = {
            "dispatch_id": dispatch_id,
            "commit_id": commit_id,
            "buffer_seq": self._seq,
            "first_index": first,
            "item_count": count,
            "attempt": 1,
            "alone": 0,
            "worker_pid": worker_pid,
            "place": None,
        }
        self._execute(self._texts["add_dispatch"], facts)


# ---- a pool


def pooled(workers: int, items: list[str]) -> float:
    """The same items in a pool: the processor time that its parent took, all its threads together."""
    with warm_pool(workers, items) as pool:
        begun_s = time.process_time()
        answers = list(pool.imap_unordered(echo_text, items, chunksize=POOL_CHUNK_ITEMS))
        taken_s = time.process_time() - begun_s
    assert len(answers) == len(items)
    return taken_s
