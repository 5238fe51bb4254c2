"""The service of the paced example: what it refuses, what it says then, and what it counts."""

import asyncio
import http.client
import itertools
import json
from typing import Any

from limited import served

from durable_bus.examples.limited_service import Response, Service, Settings, answer_to, tokens_of


def asked_at_once(service: Service, count: int) -> list[Response]:
    async def ask() -> list[Response]:
        return await asyncio.gather(
            *(service.respond("POST", "/ask", json.dumps({"prompt": str(n)}).encode()) for n in range(count))
        )

    return asyncio.run(ask())


def test_over_one_connection_it_answers_refuses_and_counts() -> None:
    with served("--rate", "0.01", "--latency", "0", "--failing", "0") as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"))

        def call(method: str, path: str, prompt: str = "") -> tuple[http.client.HTTPResponse, Any]:
            connection.request(method, path, json.dumps({"prompt": prompt}))
            response = connection.getresponse()
            return response, json.loads(response.read())

        _, answer = call("POST", "/ask", "why?")
        assert (answer["answer"], answer["tokens"]) == (answer_to("why?"), tokens_of("why?"))
        refusal, _ = call("POST", "/ask", "and now?")
        assert refusal.status == 429
        after_ms = int(refusal.headers["Retry-After-Ms"])
        assert 0 <= 1000 * int(refusal.headers["Retry-After"]) - after_ms < 1000
        assert 0 < after_ms <= 100_000  # one token in 100 s
        assert call("GET", "/nowhere")[0].status == 404
        _, counts = call("GET", "/counts")
        connection.close()
    assert [call[2:] for call in counts.pop("calls")] == [[200, "why?"], [429, "and now?"]]
    expected = {"requests": 2, "answered": 1, "refused": 1, "failed": 0, "at_once_max": 1, "capacities": []}
    assert counts == {**expected, "usd": answer["usd"], "tokens": answer["tokens"]}


def test_one_second_s_worth_may_come_at_once_and_no_more() -> None:
    service = Service(Settings(rate=1.5, latency_s=0))
    statuses = [response.status for response in asked_at_once(service, 3)]
    assert statuses == [200, 429, 429]


def test_more_than_its_capacity_at_once_is_refused() -> None:
    service = Service(Settings(capacity=2, latency_s=0.001))
    assert [response.status for response in asked_at_once(service, 4)] == [200, 200, 429, 429]
    assert [response.status for response in asked_at_once(service, 2)] == [200, 200]
    assert service.counts.at_once_max == 2


def test_its_capacity_halves_and_doubles_by_turns() -> None:
    service = Service(Settings(capacity=4, change_every_s=0.001, latency_s=0.01))
    asked_at_once(service, 1)
    asked_at_once(service, 1)
    times_s, capacities = zip(*service.counts.capacities, strict=True)
    assert len(capacities) > 10
    assert capacities == tuple(2 if number % 2 else 4 for number in range(len(capacities)))
    assert all(abs(later - before - 0.001) < 1e-6 for before, later in itertools.pairwise(times_s))


def test_what_fails_follows_from_the_seed_and_costs_nothing() -> None:
    outcomes = []
    for seed in (1, 1, 2):
        service = Service(Settings(latency_s=0, failing=0.5, seed=seed))
        outcomes.append([response.status for response in asked_at_once(service, 64)])
        assert service.counts.failed == outcomes[-1].count(500) > 0
        assert service.counts.tokens == sum(
            tokens_of(str(n)) for n, status in enumerate(outcomes[-1]) if status == 200
        )
    assert outcomes[0] == outcomes[1] != outcomes[2]
