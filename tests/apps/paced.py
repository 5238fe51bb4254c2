"""Handlers under limits, and some that spend."""

from durable_bus import Bus, HandlerMetadata
from durable_bus.errors import RetryAfter

bus = Bus("paced")
bus.limit("seldom", rate="1/day")
bus.limit("service", rate="1000/s", running=40)


@bus.listener("seldom", limits=["seldom"])
def seldom(text: str) -> str:
    return text


@bus.listener("serve", limits=["service"])
def serve(text: str) -> str:
    if text == "later":
        raise RetryAfter(3600, limit="service")
    return text


@bus.listener("pay")
def pay(text: str, metadata: HandlerMetadata) -> str:
    metadata.spend(usd=float(text))
    return text


@bus.listener("check")
def check(text: str) -> str:
    if text == "bad":
        raise ValueError(text)
    return text
