"""`console`: its pages on a journal with many buffers, beside a daemon that works on it; live updates."""

import argparse
import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _bench.app import bus
from _bench.figures import progress
from _bench.processes import DURABLE_BUS, Daemon, cpu_s, environment, peak_mb, rows, scratch

if TYPE_CHECKING:
    import httpx

WORK = "sleep_250us"
WATCHED_S_MAX = 20.0
STREAMS = 50
GOALS = {
    "first_byte_p95_ms": "150 ms at most; the past's overview 1,000",
    "largest_page_kb": "below 200",
    "peak_mb": "below 120",
    "core_percent": "3 at most",
    "stale_s": "2 at most",
}


def console(options: argparse.Namespace) -> dict[str, Any]:
    buffers, seconds = options.console_buffers, options.console_seconds
    count = max(1, options.journal_results // buffers)
    with scratch(options.folder) as own:
        journal = own / "journal.db"
        progress(f"console: making {buffers:,} buffers of {count:,} results")
        with bus.running(journal=journal, workers=options.workers) as client:
            for number in range(buffers):
                items = (f"item {number} {index}" for index in range(count))
                client.start("keep", items, buffer_id=f"b{number:05d}").wait()
        with (
            _served(journal, options.workers),
            _working(journal, options.console_items),
            _console(journal, own) as page,
        ):
            return {
                "results": buffers * count,
                "buffers": buffers,
                "pages": _pages(page, journal, f"b{buffers // 2:05d}", options.console_samples),
                "one_page_open": _one_page_open(page, journal, min(seconds, WATCHED_S_MAX)),
                "streams": _streams(page, seconds),
                "peak_mb": round(peak_mb(page.pid), 1),
            }


class Page:
    """A console, and a way to ask it."""

    def __init__(self, pid: int, address: str, token: str) -> None:
        self.pid, self.address = pid, address
        self.headers = {"Authorization": f"Bearer {token}"}
        self.client = self.another_client()

    def another_client(self) -> "httpx.Client":
        import httpx  # the other sections need nothing but this package

        """With connections of its own. Nothing is encrypted: it need not read certificates, for 20 ms."""
        return httpx.Client(base_url=self.address, headers=self.headers, timeout=60, verify=False)

    def first_byte(self, path: str) -> tuple[float, int]:
        """Seconds until the first byte of the page is there, and how many bytes all of it has."""
        begun_s = time.perf_counter()
        with self.client.stream("GET", path) as response:
            chunks = response.iter_raw()
            size = len(next(chunks))
            seconds = time.perf_counter() - begun_s
            size += sum(map(len, chunks))
            if response.status_code != 200:
                raise RuntimeError(f"{path}: {response.status_code}")
        return seconds, size


@contextlib.contextmanager
def _served(journal: Path, workers: int) -> Iterator[None]:
    daemon = Daemon("_bench.app:bus", journal, "--workers", str(workers))
    try:
        daemon.client().close()
        yield
    finally:
        daemon.stop()


@contextlib.contextmanager
def _working(journal: Path, count: int) -> Iterator[None]:
    """Work that lasts as long as the block, if it is enough: some 5,000 items a second."""
    from durable_bus import Client

    with Client(journal) as client:
        buffer = client.start(WORK, (f"item {index}" for index in range(count)), buffer_id="busy")
        try:
            yield
        finally:
            client.cancel(buffer.buffer_id)


@contextlib.contextmanager
def _console(journal: Path, folder: Path) -> Iterator[Page]:
    token_file = folder / "token"
    command = [*DURABLE_BUS, "web", "--port", "0", "--token-file", str(token_file), "--journal", str(journal)]
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, **quiet)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().decode().strip()
        yield Page(process.pid, address, token_file.read_text().strip())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def _pages(page: Page, journal: Path, buffer_id: str, samples: int) -> dict[str, Any]:
    """Each page so often: the 95th percentile, by nearest rank, and its size."""
    (newest,) = rows(journal, "SELECT max(commit_id) FROM journal_commit")[0]
    (message,) = rows(journal, "SELECT message_id FROM messages LIMIT 1")[0]
    then = newest // 2
    paths = (
        "/", f"/?at={then}", "/buffers", f"/buffers?at={then}", "/buffers?state=cancelled",
        "/buffers?part=b00",
        "/buffers/busy", "/buffers/busy?state=waiting", f"/buffers/busy?at={newest}", f"/buffers/{buffer_id}",
        f"/buffers/{buffer_id}?at={then}", f"/buffers/{buffer_id}/items/0", "/workers", f"/workers?at={then}",
        "/messages", f"/messages/{message.replace('/', '%2F')}", "/questions",
        "/questions?name=slowest-items", "/questions?sql=SELECT+count(*)+FROM+results",
        "/time", f"/time?at={then}",
    )  # fmt: skip
    measured = {}
    for path in paths:
        takes_long = "name=" in path or "sql=" in path
        asked = [page.first_byte(path) for _ in range(min(3, samples) if takes_long else samples)]
        seconds = sorted(first for first, _ in asked)
        measured[path] = {
            "p50_ms": round(1000 * seconds[len(seconds) // 2], 1),
            "p95_ms": round(1000 * seconds[-(-95 * len(seconds) // 100) - 1], 1),
            "kb": round(max(size for _, size in asked) / 1000, 1),
        }
        progress(f"console: {path} {measured[path]['p95_ms']} ms")
    return measured


def _one_page_open(page: Page, journal: Path, watched_s: float) -> dict[str, Any]:
    """What a browser with the overview open costs: it fetches the page at each event."""
    done = "SELECT completed FROM buffers WHERE buffer_id = 'busy'"
    stop_s = time.monotonic() + watched_s
    begun_s, cpu_before, items_before = time.monotonic(), cpu_s(page.pid), rows(journal, done)[0][0]
    fetched = 0
    with page.client.stream("GET", "/live") as events:
        for line in events.iter_lines():
            if line.startswith("event: changed"):
                page.client.get("/")
                fetched += 1
            if time.monotonic() > stop_s:
                break
    seconds = time.monotonic() - begun_s
    return {
        "items_per_s": round((rows(journal, done)[0][0] - items_before) / seconds),
        "core_percent": round(100 * (cpu_s(page.pid) - cpu_before) / seconds, 2),
        "fetched": fetched,
        "seconds": round(seconds, 1),
    }


def _streams(page: Page, seconds: float) -> dict[str, Any]:
    """The longest that one of fifty connections went without an event, and what is left of them."""
    before = _held(page.pid)
    stale = [0.0] * STREAMS
    events = [0] * STREAMS

    def follow(number: int) -> None:
        begun_s = last_s = time.monotonic()
        with (
            page.another_client() as client,
            client.stream("GET", "/live") as response,
        ):
            for line in response.iter_lines():
                now_s = time.monotonic()
                if line.startswith("event: changed"):
                    if events[number]:
                        stale[number] = max(stale[number], now_s - last_s)
                    last_s = now_s
                    events[number] += 1
                if now_s - begun_s > seconds:
                    return

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deadline_s = time.monotonic() + 10
    while (after := _held(page.pid)) != before and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return {
        "seconds": seconds,
        "stale_s": round(max(stale), 2),
        "events": [min(events), max(events)],
        "before": before,
        "after": after,
    }


def _held(pid: int) -> dict[str, int]:
    """Descriptors and threads; those of the pool that makes pages stay, and are as many before."""
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
    }


def show_console(measured: dict[str, Any]) -> None:
    print(f"    console: {measured['results']:,} results, {measured['buffers']:,} buffers, a daemon at work")
    print(f"    {'page':44}{'p50':>10}{'p95':>10}{'size':>12}   (goal: {GOALS['first_byte_p95_ms']})")
    for path, one in measured["pages"].items():
        print(f"      {path:42}{one['p50_ms']:7.0f} ms{one['p95_ms']:7.0f} ms{one['kb']:9.0f} KB")
    seen = measured["one_page_open"]
    print(
        f"    one page open: {seen['core_percent']} % of a core (goal: {GOALS['core_percent']}) at "
        f"{seen['items_per_s']:,} items/s, fetched {seen['fetched']} times in {seen['seconds']} s"
    )
    streams = measured["streams"]
    print(
        f"    {STREAMS} streams for {streams['seconds']:.0f} s: the longest without an event "
        f"{streams['stale_s']} s (goal: {GOALS['stale_s']}), {streams['events'][0]} to "
        f"{streams['events'][1]} events; held before {streams['before']}, after {streams['after']}"
    )
    print(f"    peak memory {measured['peak_mb']} MB (goal: {GOALS['peak_mb']})")
