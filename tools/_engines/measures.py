"""`kills`, `tiny` and `bare`: see the top of engines.py."""

import argparse
import contextlib
import hashlib
import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _bench.figures import progress
from _bench.processes import DURABLE_BUS, Daemon, environment, rows, scratch
from _soak.processes import children_of

from _engines.app import POISON
from _engines.cluster import Cluster, is_worker

LOOK_EVERY_S = 0.05


def serve(journal: Path, engine: str) -> Daemon:
    where = ("--workers", "2") if engine == "local" else ("--engine", engine)
    return Daemon("_engines.app:bus", journal, *where)


def engine_process(daemon: Daemon) -> int | None:
    """Its pid."""
    for pid in children_of(daemon.process.pid):
        with contextlib.suppress(OSError):
            if b"durable_bus.engines" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return None


@contextmanager
def cluster_for(engine: str, folder: Path, workers: int = 2) -> Iterator[tuple[str, Cluster | None]]:
    """The spec of an engine; Dask's with a cluster of its own."""
    if engine != "dask":
        yield engine if engine == "local" else f"{engine}:{workers}", None
        return
    cluster = Cluster(workers, folder)
    try:
        cluster.until_ready()
        yield f"dask:{cluster.address}", cluster
    finally:
        cluster.close()


# ---- kills


def kills(options: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for engine in options.engines:
        progress(f"kills: {engine}")
        with scratch(options.folder) as own, cluster_for(engine, own) as (spec, cluster):
            found[engine] = _killed(options, own / "journal.db", spec, cluster)
        progress(f"  {found[engine]}")
    return found


def _killed(
    options: argparse.Namespace, journal: Path, engine: str, cluster: Cluster | None
) -> dict[str, Any]:
    daemon = serve(journal, engine)
    killer = _Killer(daemon, engine, cluster, options.kill_every)
    try:
        with daemon.client() as client:
            client.start("work", range(options.items), buffer_id="work")
        begun_s = time.monotonic()
        plan = [(0.2, killer.supervisor), (0.4, killer.scheduler), (0.6, killer.supervisor)]
        with killer:
            while (done := _completed(journal)) < options.items:
                if plan and done >= plan[0][0] * options.items:
                    plan.pop(0)[1]()
                if time.monotonic() - begun_s > options.patience:
                    break
                time.sleep(LOOK_EVERY_S)
        seconds = time.monotonic() - begun_s
    finally:
        daemon.stop()
    return {"seconds": round(seconds, 1), **killer.counts, **_outcome(journal, options.items)}


class _Killer(threading.Thread):
    """Kills a worker every so many seconds."""

    def __init__(self, daemon: Daemon, engine: str, cluster: Cluster | None, every_s: float) -> None:
        super().__init__(daemon=True)
        self._daemon, self._engine, self._cluster, self._every_s = daemon, engine, cluster, every_s
        self._over = threading.Event()
        self._turns = itertools.count()
        self.counts = {"workers_killed": 0, "supervisors_killed": 0, "schedulers_killed": 0}

    def __enter__(self) -> "_Killer":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(self._every_s):
            workers = self._workers()
            if workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(workers[next(self._turns) % len(workers)], signal.SIGKILL)
                    self.counts["workers_killed"] += 1

    def _workers(self) -> list[int]:
        if self._cluster is not None:
            return self._cluster.workers()
        if self._engine == "local":
            return children_of(self._daemon.process.pid)
        pid = engine_process(self._daemon)
        return [] if pid is None else [child for child in children_of(pid) if is_worker_of_pool(child)]

    def supervisor(self) -> None:
        self.counts["supervisors_killed"] += 1
        self._daemon.kill()  # and all that it has started, as a machine that goes down would
        self._daemon.start()

    def scheduler(self) -> None:
        if self._cluster is not None:
            self.counts["schedulers_killed"] += 1
            self._cluster.restart_scheduler()


def is_worker_of_pool(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return is_worker(pid) or b"loky" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _completed(journal: Path) -> int:
    return int(rows(journal, "SELECT coalesce(max(completed), 0) FROM buffers")[0][0])


def _outcome(journal: Path, items: int) -> dict[str, Any]:
    """What the views say: the same on every engine, or something is wrong."""
    results = rows(journal, "SELECT item_index, success, payload FROM results ORDER BY item_index")
    (state,) = rows(journal, "SELECT state, total, completed, successful, failed FROM buffers")
    values = [(index, payload) for index, success, payload in results if success]
    right = sum(success and int(payload) == index * index for index, success, payload in results)
    failed = [index for index, success, _ in results if not success]
    blamed = rows(journal, "SELECT DISTINCT item_index FROM failures WHERE item_index IS NOT NULL")
    checked = subprocess.run(
        [*DURABLE_BUS, "check", "--journal", str(journal)], env=environment(), stdout=subprocess.DEVNULL
    )
    return {
        "state": state[0],
        "right": right,
        "each_once": [index for index, _, _ in results] == list(range(items)),
        "failed": failed,
        "blamed_at_some_time": sorted(index for (index,) in blamed),
        "results_sha256": hashlib.sha256(repr(values).encode()).hexdigest()[:16],
        "check_exit_code": checked.returncode,
    }


def show_kills(found: dict[str, Any]) -> None:
    for engine, one in found.items():
        killed = ", ".join(
            f"{one[f'{what}_killed']} {what}" for what in ("workers", "supervisors", "schedulers")
        )
        print(f"{engine:9} {one['seconds']:6.1f} s   killed: {killed}")
        print(f"          {one['state']}, {one['right']:,} right, each once: {one['each_once']}, ", end="")
        print(f"failed: {one['failed']} (the poison is {POISON}), results {one['results_sha256']}, ", end="")
        print(f"check: exit code {one['check_exit_code']}; ", end="")
        print(f"lost alone at some time: {one['blamed_at_some_time']}")


# ---- tiny


def tiny(options: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for engine in options.engines:
        progress(f"tiny: {engine}")
        with scratch(options.folder) as own, cluster_for(engine, own) as (spec, cluster):
            found[engine] = _rate(options, own / "journal.db", spec, cluster)
        progress(f"  {found[engine]}")
    return found


def _rate(options: argparse.Namespace, journal: Path, engine: str, cluster: Cluster | None) -> dict[str, Any]:
    daemon = serve(journal, engine)
    try:
        with daemon.client() as client:
            client.start("tiny", range(20_000), buffer_id="warm").wait(120)
            memory: dict[str, list[float]] = {}
            begun_s = time.monotonic()
            buffer = client.start("tiny", range(options.tiny_items), buffer_id="tiny")
            accepted_s = time.monotonic() - begun_s
            while not buffer.status().ended_how:
                _note_memory(memory, daemon, cluster)
                time.sleep(0.5)
            seconds = time.monotonic() - begun_s
        successful = buffer.status().successful
    finally:
        daemon.stop()
    return {
        "items": options.tiny_items,
        "successful": successful,
        "seconds": round(seconds, 2),
        "accepted_after_s": round(accepted_s, 2),
        "items_per_s": round(options.tiny_items / seconds),
        "memory_mb": {name: _quarters(samples) for name, samples in memory.items()},
    }


def _note_memory(memory: dict[str, list[float]], daemon: Daemon, cluster: Cluster | None) -> None:
    pids = {"supervisor": daemon.process.pid, **(cluster.memory_pids() if cluster is not None else {})}
    if (engine := engine_process(daemon)) is not None:
        pids["engine process"] = engine
    for name, pid in pids.items():
        with contextlib.suppress(OSError, LookupError):
            memory.setdefault(name, []).append(_resident_mb(pid))


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _quarters(samples: list[float]) -> list[float]:
    """The most of each quarter of the time."""
    size = -(-len(samples) // 4)
    return [round(max(samples[first : first + size]), 1) for first in range(0, len(samples), size)]


def show_tiny(found: dict[str, Any]) -> None:
    for engine, one in found.items():
        print(
            f"{engine:9} {one['successful']:,} of {one['items']:,} items in {one['seconds']} s, of which "
            f"{one['accepted_after_s']} s until all were accepted: {one['items_per_s']:,} items/s"
        )
        for name, quarters in one["memory_mb"].items():
            print(f"          {name:16} {' '.join(f'{mb:7.1f}' for mb in quarters)} MB, most of each quarter")


# ---- bare


def bare(options: argparse.Namespace) -> dict[str, Any]:
    """The same loop over a bare Dask client whose scheduler is killed at two fifths."""
    with scratch(options.folder) as own:
        cluster = Cluster(2, own)
        try:
            cluster.until_ready()
            return _bare_loop(options.items, cluster.address, cluster.restart_scheduler)
        finally:
            cluster.close()


def _bare_loop(items: int, address: str, kill_scheduler: Callable[[], None]) -> dict[str, Any]:
    from concurrent.futures import as_completed

    from distributed import Client

    client = Client(address)
    executor = client.get_executor(pure=False)
    futures = [executor.submit(_work, number) for number in range(items)]
    results: dict[int, int] = {}
    errors: dict[str, int] = {}
    killed = False
    try:
        for future in as_completed(futures, timeout=120):
            try:
                number, value = future.result()
                results[number] = value
            except BaseException as error:
                errors[type(error).__name__] = errors.get(type(error).__name__, 0) + 1
            if len(results) >= 0.4 * items and not killed:
                killed = True
                kill_scheduler()
    except TimeoutError as error:
        errors[type(error).__name__] = 1
    return {"items": items, "results": len(results), "errors": errors}


def _work(number: int) -> tuple[int, int]:
    time.sleep(0.005)
    return number, number * number


def show_bare(found: dict[str, Any]) -> None:
    print(f"bare Dask client: {found['results']:,} results of {found['items']:,} items; {found['errors']}")
    print("          and those results are in this process's memory only")


__all__ = ["bare", "kills", "show_bare", "show_kills", "show_tiny", "tiny"]
