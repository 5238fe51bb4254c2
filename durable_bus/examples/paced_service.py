"""Two thousand prompts to a service that refuses who asks too often, fails at times, and costs money.

It needs httpx, which durable_bus does not: `pip install httpx`.

    python -m durable_bus.examples.limited_service --rate 220 > service.url &
    python -m durable_bus.examples.paced_service "$(cat service.url)" asked.db

It prints what has come of them, and what each day has cost. Kill it and run it again: it asks what is
missing.

- `bus.limit`: no more start than the service allows, in all workers together, also after a crash. Calls that
  start evenly do not arrive evenly, so the limit stays a tenth below the service's own.
- `RetryAfter`: should the service refuse a call all the same, no other starts until it may come again.
- `memo`: equal prompts are asked once.
- `retry_on`: a call that broke is tried again; one that the service does not understand is not.
- `budget`: when so much is spent, the rest waits for `durable-bus resume prompts --journal asked.db`.
"""

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import httpx

from durable_bus import Bus, HandlerMetadata, RetryAfter

BUFFER_ID = "prompts"
PROMPTS = 2_000
BUDGET_USD = 5.0

COSTS = """
SELECT date(spent_at) AS day, unit, round(sum(amount), 2) AS amount, count(*) AS answers
FROM spending GROUP BY day, unit ORDER BY day, unit
"""

bus = Bus("paced")
bus.limit("service", rate=os.environ.get("SERVICE_RATE", "200/s"))

# Each worker process has one. It connects at the first call.
service = httpx.AsyncClient(
    base_url=os.environ.get("SERVICE_URL", ""),
    timeout=30,
    limits=httpx.Limits(max_keepalive_connections=100),  # as many as a worker runs at once; by itself 20
)


class ServiceBroken(Exception):
    """The service answers 500 or the like."""


@bus.listener(
    "ask",
    limits=["service"],
    attempts=8,
    retry_on=(ServiceBroken, httpx.TransportError),
    backoff=0.1,
    backoff_max=5,
    jitter=0.5,
    memo="v1",
)
async def ask(prompt: str, metadata: HandlerMetadata) -> str:
    """Ask the service. Raises HTTPStatusError for what it does not understand."""
    response = await service.post("/ask", json={"prompt": prompt})
    if response.status_code == 429:
        raise RetryAfter(float(response.headers["Retry-After"]), limit="service")
    if response.is_server_error:
        raise ServiceBroken(f"{response.status_code}: {response.text}")
    answer = response.raise_for_status().json()
    metadata.spend(usd=answer["usd"], tokens=answer["tokens"])
    return str(answer["answer"])


def prompts(count: int = PROMPTS) -> list[str]:
    """The last fifth of them are equal to earlier ones."""
    different = count - count // 5
    return [f"What is known of day {number % different}?" for number in range(count)]


def main(url: str, journal: Path, count: int = PROMPTS, workers: int = 2) -> int:
    """Exit code 1: some prompts have no answer."""
    os.environ["SERVICE_URL"] = url  # workers inherit it
    with bus.running(journal, workers=workers) as client:
        buffer = client.start("ask", prompts(count), buffer_id=BUFFER_ID, budget={"usd": BUDGET_USD})
        complete = buffer.wait()
    print(f"{complete.successful:,} of {complete.total:,} answered")
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        for day, unit, amount, answers in connection.execute(COSTS):
            print(f"{day}  {amount:12,.2f} {unit} for {answers:,} answers")
    return 0 if complete.successful == complete.total else 1


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python -m durable_bus.examples.paced_service URL JOURNAL [PROMPTS]")
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else PROMPTS))
