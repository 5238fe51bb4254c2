"""A small HTTP service that behaves as hosted models do: slow, limited, at times broken, and not for nothing.

    python -m durable_bus.examples.limited_service --port 0 --rate 220

It prints its address. It needs nothing but Python. Ask it, and it answers, with what that has cost:

    POST /ask {"prompt": "…"}  →  200 {"answer": "…", "usd": 0.002, "tokens": 812}

- More than `--rate` a second, or than one second's worth at once: 429. Retry-After says when to come again.
- More than `--capacity` at once: 429, too. With `--change-every`, the capacity halves and doubles by turns.
- `--failing` of what it takes: 500, at random, by `--seed`. That costs nothing.

GET /counts says what it has counted, and when each call came (`Counts`). It counts what it has done, whether
or not anybody has waited for the answer.
"""

import argparse
import asyncio
import contextlib
import json
import math
import random
import time
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

USD_A_TOKEN = 0.000_005
CAPACITY_RETRY_MS = 50
PHRASES = {200: "OK", 404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error"}


class Call(NamedTuple):
    """One call of POST /ask."""

    arrived_s: float
    """By the monotonic clock, which all processes of a machine share."""
    ended_s: float
    status: int
    prompt: str


@dataclass
class Counts:
    """What GET /counts says, as JSON."""

    requests: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    usd: float = 0.0
    tokens: int = 0
    at_once_max: int = 0
    calls: list[Call] = field(default_factory=list)
    """In the order in which they ended."""
    capacities: list[tuple[float, int]] = field(default_factory=list)
    """Since when how many could be in its hands at once. It counts from the first call on."""


@dataclass(frozen=True)
class Settings:
    """How the service behaves."""

    rate: float = 0.0
    """How many a second; 0: any number."""
    capacity: int = 0
    """How many at once; 0: any number."""
    change_every_s: float = 0.0
    """How often the capacity halves, and doubles again; 0: never."""
    latency_s: float = 0.05
    """How long an answer takes."""
    failing: float = 0.0
    """The share that fails."""
    seed: int = 1


class Response(NamedTuple):
    """A status, headers beside those that all have, and a JSON value."""

    status: int
    value: object
    headers: str = ""


def tokens_of(prompt: str) -> int:
    """What an answer to it takes."""
    return 200 + len(prompt)


def answer_to(prompt: str) -> str:
    """The same for the same prompt."""
    return f"{prompt[::-1]}!"


class Service:
    """The state of a service, and what it answers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.counts = Counts()
        self._tokens = self._burst = max(1.0, settings.rate)
        self._tokens_at_s = time.monotonic()
        self._random = random.Random(settings.seed)
        self._at_once = 0

    async def respond(self, method: str, path: str, body: bytes) -> Response:
        if (method, path) == ("GET", "/counts"):
            return Response(200, asdict(self.counts))
        if (method, path) == ("POST", "/ask"):
            return await self._ask(str(json.loads(body)["prompt"]))
        return Response(404, {"error": f"there is no {method} {path}"})

    async def _ask(self, prompt: str) -> Response:
        arrived_s = time.monotonic()
        refusal = self._refusal(arrived_s)
        response = refusal or await self._work(prompt)
        self.counts.requests += 1
        self.counts.calls.append(Call(arrived_s, time.monotonic(), response.status, prompt))
        return response

    def _refusal(self, now_s: float) -> Response | None:
        """429, or None: then it has taken a token of the rate."""
        capacity = self._capacity(now_s)
        if capacity and self._at_once >= capacity:
            return self._come_again(CAPACITY_RETRY_MS / 1000)
        if rate := self.settings.rate:
            self._tokens = min(self._burst, self._tokens + (now_s - self._tokens_at_s) * rate)
            self._tokens_at_s = now_s
            if self._tokens < 1:
                return self._come_again((1 - self._tokens) / rate)
            self._tokens -= 1
        return None

    def _come_again(self, after_s: float) -> Response:
        """429. Retry-After has whole seconds. Some hosted models say beside it how many milliseconds they
        mean, and so does this.
        """
        self.counts.refused += 1
        headers = f"Retry-After: {math.ceil(after_s)}\r\nRetry-After-Ms: {math.ceil(after_s * 1000)}\r\n"
        return Response(429, {"error": "too many requests"}, headers)

    def _capacity(self, now_s: float) -> int:
        """How many may be in its hands at this time; 0: any number."""
        whole, every_s, capacities = (
            self.settings.capacity,
            self.settings.change_every_s,
            self.counts.capacities,
        )
        if not whole:
            return 0
        if not capacities:
            capacities.append((now_s, whole))
        while every_s and now_s >= capacities[-1][0] + every_s:
            since_s, before = capacities[-1]
            capacities.append((since_s + every_s, whole if before < whole else max(1, whole // 2)))
        return capacities[-1][1]

    async def _work(self, prompt: str) -> Response:
        self._at_once += 1
        self.counts.at_once_max = max(self.counts.at_once_max, self._at_once)
        fails = self._random.random() < self.settings.failing
        try:
            await asyncio.sleep(self.settings.latency_s)
        finally:
            self._at_once -= 1
        if fails:
            self.counts.failed += 1
            return Response(500, {"error": "something broke"})
        tokens = tokens_of(prompt)
        usd = round(tokens * USD_A_TOKEN, 6)
        self.counts.answered += 1
        self.counts.tokens += tokens
        self.counts.usd += usd
        return Response(200, {"answer": answer_to(prompt), "usd": usd, "tokens": tokens})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, call after call."""
        # Who is killed in the middle of a call leaves half a request, or takes no answer.
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                request, *lines = head.split("\r\n")
                fields = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
                }
                method, path, _ = request.split(" ")
                response = await self.respond(
                    method, path, await reader.readexactly(int(fields.get("content-length", 0)))
                )
                content = json.dumps(response.value).encode()
                head = (
                    f"HTTP/1.1 {response.status} {PHRASES[response.status]}\r\n{response.headers}"
                    f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
                )
                writer.write(head.encode() + content)
                await writer.drain()
        writer.close()


async def run(settings: Settings, port: int) -> None:
    """Serve on loopback until killed; print the address as soon as it answers."""
    server = await asyncio.start_server(Service(settings).serve, "127.0.0.1", port, backlog=1000)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--rate", type=float, default=0.0, help="calls a second; 0: any number")
    parser.add_argument("--capacity", type=int, default=0, help="calls at once; 0: any number")
    parser.add_argument("--change-every", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--latency", type=float, default=0.05, metavar="SECONDS")
    parser.add_argument("--failing", type=float, default=0.02, help="the share that fails")
    parser.add_argument("--seed", type=int, default=1, help="of what fails")
    options = parser.parse_args(arguments)
    settings = Settings(
        options.rate, options.capacity, options.change_every, options.latency, options.failing, options.seed
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(settings, options.port))


if __name__ == "__main__":
    main()
