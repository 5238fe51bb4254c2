"""Fifty pages that are open while a daemon works."""

import asyncio
import os
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
from consoles import Console
from services import Service
from support import until

PAGES = 50
LOOK_S = 10.0
SILENCE_S_MAX = 2.0


async def listen(console: Console, until_s: float) -> list[float]:
    """When events came, by the monotonic clock, until that time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", console.port)
    try:
        lines = ["GET /live HTTP/1.1", f"Host: {console.host}", console.cookie, "", ""]
        writer.write("\r\n".join(lines).encode())
        came = []
        while True:
            try:
                line = await asyncio.wait_for(reader.readline(), until_s - time.monotonic())
            except TimeoutError:
                return came
            assert line, "the connection has ended"
            if line.startswith(b"event: changed"):
                came.append(time.monotonic())
    finally:
        writer.close()
        await writer.wait_closed()


async def listen_all(console: Console, pages: int, seconds: float) -> list[list[float]]:
    until_s = time.monotonic() + seconds
    return await asyncio.gather(*(listen(console, until_s) for _ in range(pages)))


def held(pid: int) -> tuple[int, int]:
    """Threads and descriptors."""
    return len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.slow
def test_fifty_pages_hear_of_what_happens_and_leave_nothing_behind(journal: Path) -> None:
    with Service(journal, "apps.browsing:bus") as service, service.client() as client:
        service.until_ready()
        buffer = client.start("slow", ["0.3"] * 200, buffer_id="long")
        with Console(journal) as console:
            console.enter()
            asyncio.run(listen_all(console, 1, 1.5))  # what is there from the first one on
            pid = console.command.pid
            console.browser.close()
            until(lambda: held(pid)[1], "it lives")
            before = held(pid)
            begun = time.monotonic()
            heard = asyncio.run(listen_all(console, PAGES, LOOK_S))
            assert time.monotonic() - begun < LOOK_S + 2
            for came in heard:
                times = [begun, *came, begun + LOOK_S]
                assert max(after - at for at, after in pairwise(times)) <= SILENCE_S_MAX
            until(lambda: held(pid)[0] <= before[0] and held(pid)[1] <= before[1], "it is as before")
        client.cancel(buffer.buffer_id)


def test_scripts_are_there_in_their_order_before_the_page_begins(console: Console) -> None:
    """With `defer`, htmx began before its extension was there, now and then, and the page was never live."""
    scripts = re.findall(r"<script([^>]*)>", console.browser.get("/").text)
    assert scripts == [f' src="/static/{name}"' for name in ("htmx.min.js", "hx-sse.min.js", "console.js")]
