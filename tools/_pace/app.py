"""What is run: listeners under limits.

Those that call a service speak HTTP themselves: httpx takes 3 ms of a core a call, and 500 calls a second
would keep a machine busy.
"""

import asyncio
import json
import os
import time
from urllib.parse import urlsplit

from durable_bus import Bus, RetryAfter

CALLED_RATE = 500.0
SHARED_RATE = 200.0
PROBED_MAX = 200
NAP_S = 0.001

bus = Bus("pace")
bus.limit("called", rate=f"{CALLED_RATE:g}/s")
bus.limit("probed", running=PROBED_MAX, adaptive=True)
bus.limit("shared", rate=f"{SHARED_RATE:g}/s")
bus.limit("rare", rate="1/h")

_connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []


@bus.listener("call", limits=["called"])
async def call(prompt: str) -> str:
    """Answers when it began, in seconds of the monotonic clock."""
    begun_s = time.monotonic()
    await _ask(prompt, "called")
    return str(begun_s)


@bus.listener("probe", limits=["probed"])
async def probe(prompt: str) -> str:
    await _ask(prompt, "probed")
    return ""


@bus.listener("share", limits=["shared"])
def share(text: str) -> str:
    return text


@bus.listener("seldom", limits=["rare"])
def seldom(text: str) -> str:
    return text


@bus.listener("nap")
def nap(text: str) -> str:
    time.sleep(NAP_S)
    return text


@bus.listener("echo")
def echo(text: str) -> str:
    return text


async def _ask(prompt: str, limit: str) -> None:
    """One POST /ask. Raises RetryAfter for a 429, and RuntimeError for what is neither that nor 200."""
    address = urlsplit(os.environ["SERVICE_URL"])
    reader, writer = (
        _connections.pop() if _connections else await asyncio.open_connection(address.hostname, address.port)
    )
    body = json.dumps({"prompt": prompt})
    writer.write(f"POST /ask HTTP/1.1\r\nHost: service\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
    await reader.readexactly(int(fields["content-length"]))
    _connections.append((reader, writer))
    status = int(head.split(" ", 2)[1])
    if status == 429:
        raise RetryAfter(int(fields["retry-after-ms"]) / 1000, limit=limit)
    if status != 200:
        raise RuntimeError(f"the service answers {status}")
