"""A journal with everything in it, made as a company would make it, and a daemon that goes on with it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from durable_bus import Client, Text, open
from durable_bus.errors import JournalUnreachable, SupervisorLost

TOOLS = Path(__file__).resolve().parents[1]
_PATIENCE_S = 60.0


def until(fact: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not fact():
        if time.monotonic() > deadline_s:
            raise TimeoutError("what the pictures need has not come true")
        time.sleep(0.02)


@contextlib.contextmanager
def daemon(journal: Path) -> Iterator["subprocess.Popen[bytes]"]:
    command = [
        "-m",
        "durable_bus",
        "serve",
        "documents:bus",
        "--workers",
        "3",
        "--journal",
        str(journal),
    ]
    shutil.copy(TOOLS / "_screenshots" / "app.py", journal.with_name("documents.py"))
    paths = [str(journal.parent), str(TOOLS.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(
        [sys.executable, *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(_PATIENCE_S)


def client_of(journal: Path, name: str | None = None) -> Client:
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return Client(journal, name=name)
        except (JournalUnreachable, SupervisorLost):
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.02)


@contextlib.contextmanager
def company(folder: Path) -> Iterator[Path]:
    """The journal, while its daemon goes on: one run was killed, and another one has begun."""
    journal = folder / "documents.db"
    with daemon(journal) as process:
        with client_of(journal) as client, client_of(journal, "editor"):
            _first_day(client)
            client.start("index", [Text(f"page-{n}") for n in range(140)], buffer_id="search-index")
            client.start("extract", _texts("press release", 3_000), buffer_id="press-2026")
            until(lambda: _done(journal, "search-index") >= 30)
        os.kill(process.pid, signal.SIGKILL)
    with daemon(journal):
        with client_of(journal) as client:
            client.buffer("search-index").wait(_PATIENCE_S)
            client.start("index", [Text(f"note-{n}") for n in range(90)], buffer_id="notes-index")
            until(lambda: _done(journal, "notes-index") >= 4)
            client.pause("notes-index")
            client.set_limit("model", rate="1200/min")
            client.start("fetch", _urls("blog", 400), buffer_id="blog-crawl").wait(_PATIENCE_S)
            client.retry("archive-crawl").wait(_PATIENCE_S)
            until(lambda: _done(journal, "press-2026") >= 30)
        yield journal


def _first_day(client: Client) -> None:
    client.start("fetch", _urls("archive", 1200), buffer_id="archive-crawl").wait(_PATIENCE_S)
    client.start("fetch", [Text("https://example.com/heavy"), *_urls("news", 60)], buffer_id="news").wait(60)
    client.start("fetch", _urls("shop", 300), buffer_id="shop-crawl", enough=200).wait(_PATIENCE_S)
    client.start("summarise", _texts("letter", 8), buffer_id="letters").wait(_PATIENCE_S)
    questions = ["Is the claim in letter 4 true?", "Which of the two photos do we print?"]
    client.start("review", [Text(text) for text in questions], buffer_id="to-review")


def _done(journal: Path, buffer_id: str) -> int:
    with open(journal) as opened:
        return next(row.completed for row in opened.buffers() if row.buffer_id == buffer_id)


def _urls(folder: str, count: int) -> list[Text]:
    return [Text(f"https://example.com/{folder}/{number}") for number in range(count)]


def _texts(noun: str, count: int) -> list[Text]:
    return [Text(f"{noun} {number}") for number in range(1, count + 1)]
