"""What a small company might do with its documents: fetch them, summarise them, review them."""

import hashlib
import os
import signal
import time

from durable_bus import Bus, HandlerMetadata, HandlerResponse, Json

bus = Bus("documents")
bus.limit("model", rate="600/min", running=4)


def luck(text: str, metadata: HandlerMetadata) -> int:
    """From 0 to 99, the same for the same attempt at the same item."""
    return hashlib.sha256(f"{text} {metadata.attempt}".encode()).digest()[0] * 100 // 256


@bus.listener("fetch", attempts=3, backoff=0.01)
def fetch(url: str, metadata: HandlerMetadata) -> str:
    """Some pages are not there, some only at the second attempt; one kills its worker."""
    chance = luck(url, metadata)
    if url.endswith("/heavy") and metadata.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.002 + 0.0004 * (chance % 37) ** 1.5)
    if url.endswith(("3", "17")) and "archive" in url:
        raise LookupError(f"404 Not Found: {url}")
    if chance < 9:
        raise TimeoutError(f"no answer from {url.split('/')[2]} within 10 s")
    return f"<page url='{url}' bytes='{1000 + 97 * chance}'/>"


@bus.listener("summarise", attempts=2, limits=["model"])
def summarise(text: str, metadata: HandlerMetadata) -> Json:
    metadata.spend(usd=0.0021, tokens=412)
    time.sleep(0.03)
    return Json({"title": text.title(), "score": luck(text, metadata) / 100, "tags": ["press", "2026"]})


@bus.listener("extract")
def extract(text: str, metadata: HandlerMetadata) -> HandlerResponse:
    """Passes each on to `summarise`, and what comes back on to the collector."""
    if metadata.from_id == "summarise":
        return HandlerResponse.respond(text)
    return HandlerResponse(text, "summarise")


@bus.listener("review")
def review(text: str, metadata: HandlerMetadata) -> HandlerResponse:
    """Asks a person about each."""
    if metadata.from_id == "editor":
        return HandlerResponse.respond(text)
    return HandlerResponse(text, "editor")


@bus.listener("index")
def index(path: str) -> str:
    time.sleep(0.04)
    return f"indexed {path}"
