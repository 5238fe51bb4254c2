"""`limit`; and how limits stand and for which of them a listener waits, as `status` and `top` show it."""

import time
from pathlib import Path
from typing import Any

import click

from durable_bus.cli.options import journal_option, json_option, limit_argument
from durable_bus.cli.printing import answer, duration
from durable_bus.errors import NotFound
from durable_bus.journal.reader import JournalReader
from durable_bus.payloads.rates import refilled, starts_per_s

__all__ = ["in_hand_text", "limit_command", "limit_facts", "limit_text", "wait_for_limits"]


@click.command("limit")
@limit_argument
@click.option("--rate", metavar="RATE", help="Such as 500/min, 10/s or 3/15 min.")
@click.option("--running", type=click.IntRange(min=1), metavar="N", help="How many at once.")
@click.option("--reset", is_flag=True, help="Go by what the app says again.")
@journal_option()
@json_option
def limit_command(
    name: str | None, rate: str | None, running: int | None, reset: bool, journal: Path, as_json: bool
) -> int:
    """Show the limits of the app that was served last, or NAME; or change NAME while a daemon serves it.

    A change holds from now on, also over restarts, until --reset. What is not said stays as it is.

    \b
    durable-bus limit
    durable-bus limit openai --rate 100/min
    durable-bus limit openai --reset
    """
    if rate is None and running is None and not reset:
        with JournalReader(journal) as reader:
            return _show(reader, name, as_json)
    if name is None:
        raise click.UsageError("which limit? Give its NAME")
    from durable_bus.client.client import Client
    from durable_bus.client.limits import check_change

    check_change(rate, running, reset)
    with Client(journal) as client:
        now = client.set_limit(name, rate=rate, running=running, reset=reset)
    how = "set by hand" if now.by_hand else "as the app says"
    answer(as_json, now._asdict(), f"{now.name}: {_bounds(now.rate, now.running)}, {how}")
    return 0


def _show(reader: JournalReader, name: str | None, as_json: bool) -> int:
    limits = limit_facts(reader)
    if name is None:
        answer(as_json, {"limits": limits}, "\n".join(map(limit_text, limits)) or "no limits")
        return 0
    for limit in limits:
        if limit["name"] == name:
            answer(as_json, limit, limit_text(limit))
            return 0
    raise NotFound(f"no limit {name!r:.120} in {reader.path}")


def limit_facts(reader: JournalReader) -> list[dict[str, Any]]:
    """Rows of the view `limits`, and in `rests_s` for how many seconds from now each rests; `wait_s`: until
    the next start, as far as its rate says; 0: it may be now.
    """
    now_ms = time.time_ns() // 1_000_000
    tokens = {row["name"]: row for row in reader.rows("limit_tokens")}
    return [_limit(row, tokens[row["name"]], now_ms) for row in reader.limits() if row["name"] in tokens]


def _limit(row: dict[str, Any], state: dict[str, Any], now_ms: int) -> dict[str, Any]:
    rests_s = max(0, state["rests_until"] - now_ms) / 1000
    wait_s = 0.0
    if row["rate"] is not None:
        # What was handed out and not begun has a token each; the next start needs another one.
        per_s = starts_per_s(row["rate"])
        since_s = (now_ms - state["tokens_at"]) / 1000
        tokens = refilled(state["tokens"], per_s, since_s) - row["not_begun"]
        wait_s = max(0.0, 1 - tokens) / per_s
    return {
        **row,
        "adaptive": bool(row["adaptive"]),
        "by_hand": bool(row["by_hand"]),
        "rests_s": rests_s,
        "wait_s": wait_s,
    }


def limit_text(limit: dict[str, Any]) -> str:
    """Such as `openai: 500/min, 37 in hand of 40, 20 now, rests 12 s, set by hand`."""
    text = f"{limit['name']}: {limit['rate'] or 'any rate'}, {in_hand_text(limit)}"
    if limit["rests_s"]:
        text += f", rests {_soon(limit['rests_s'])}"
    return text + (", set by hand" if limit["by_hand"] else "")


def in_hand_text(limit: dict[str, Any]) -> str:
    """Such as `37 in hand of 40`; of one that allows less just now also that."""
    text = f"{limit['in_hand']:,} in hand"
    if limit["running"] is not None:
        text += f" of {limit['running']:,}"
    return text if limit["allowed"] == limit["running"] else f"{text}, {limit['allowed']:,} now"


def _bounds(rate: str | None, running: int | None) -> str:
    return ", ".join(
        [rate or "any rate", "any number at once" if running is None else f"{running:,} at once"]
    )


def wait_for_limits(limits: list[dict[str, Any]], names: list[str]) -> str | None:
    """For which of these limits the next start waits, and how long: for the one that takes longest. None: it
    need not wait.
    """
    ours = [limit for limit in limits if limit["name"] in names]
    longest = max(ours, key=_seconds, default=None)
    if longest is None:
        return None
    if not longest["rests_s"]:
        for limit in ours:
            if limit["allowed"] is not None and limit["in_hand"] >= limit["allowed"]:
                return f"waits for limit {limit['name']}, as many are in hand as may be: {limit['in_hand']:,}"
    return f"waits for limit {longest['name']}, {_soon(_seconds(longest))}" if _seconds(longest) else None


def _seconds(limit: dict[str, Any]) -> float:
    return float(max(limit["rests_s"], limit["wait_s"]))


def _soon(seconds: float) -> str:
    """Whole seconds where a tenth says nothing."""
    return f"{seconds:.0f} s" if 10 <= seconds < 60 else duration(seconds)
