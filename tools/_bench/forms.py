"""`forms`: JSON beside text of the same length, and what people ask a million JSON results in SQL."""

import argparse
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from _bench.figures import of_rounds, paired, progress
from _bench.processes import durable

FIELDS = {
    "title": "A title of some length, as documents have",
    "score": 0.873,
    "tags": ["a", "bb", "ccc"],
    "author": {"name": "Somebody", "mail": "some@example.org"},
    "text": "x" * 110,
    "ok": True,
    "none": None,
}
QUESTIONS = {
    "json ->> '$.score' of every result": "SELECT json ->> '$.score' FROM results",
    "items JOIN results USING (item_key)": "SELECT count(i.payload < r.payload) FROM items i"
    " JOIN results r USING (item_key)",
    "an item by its key": "SELECT payload FROM items WHERE item_key = :key",
    "a result by its key": "SELECT payload FROM results WHERE item_key = :key",
}


def documents(count: int) -> list[dict[str, object]]:
    return [{"id": 100_000 + index, **FIELDS} for index in range(count)]


def texts(count: int, length: int) -> list[str]:
    return [f"{index:0{length}d}" for index in range(count)]


def forms(options: argparse.Namespace) -> dict[str, Any]:
    given = {"json": documents(options.items)}
    length = len(json.dumps(given["json"][0], separators=(",", ":")))
    given["text"] = texts(options.items, length)  # type: ignore[assignment]
    rates: dict[str, list[float]] = {"text": [], "json": []}
    for number in range(options.rounds):
        for name in sorted(rates, reverse=number % 2 == 0):
            progress(f"forms: round {number + 1} of {options.rounds}, {name}")
            rates[name].append(options.items / run(options.folder, options.workers, name, given[name]))
    return {
        "bytes": length,
        "text": of_rounds(rates["text"], 0),
        "json": of_rounds(rates["json"], 0),
        "json_of_text": paired(rates["json"], rates["text"]),
        "questions": questions(options),
    }


def run(folder: Path, workers: int, name: str, items: list[Any]) -> float:
    with durable(folder, workers) as client:
        begun_s = time.perf_counter()
        complete = client.start(f"keep-{name}", items).wait()
        seconds = time.perf_counter() - begun_s
        assert complete.successful == len(items)
        return seconds


def questions(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of each question, the shortest of three: on as many JSON results as --journal-results says, one
    in a hundred of which has failed.
    """
    with durable(options.folder, options.workers) as client:
        items = documents(options.journal_results)
        for item in items[::100]:
            item["fail"] = True
        buffer = client.start("keep-json", items)
        buffer.wait()
        with closing(sqlite3.connect(f"file:{client.journal}?mode=ro", uri=True)) as connection:
            ((key,),) = connection.execute("SELECT max(item_key) FROM items")
            return {
                label: min(seconds_of(connection, sql, key) for _ in range(3))
                for label, sql in QUESTIONS.items()
            }


def seconds_of(connection: sqlite3.Connection, sql: str, key: int) -> float:
    begun_s = time.perf_counter()
    rows = connection.execute(sql, {"key": key} if ":key" in sql else {}).fetchall()
    assert rows
    return round(time.perf_counter() - begun_s, 6)


def show_forms(measured: dict[str, Any]) -> None:
    print(f"    forms: {measured['bytes']} bytes an item, in and out, until wait has returned")
    for name in ("text", "json"):
        rates = measured[name]
        print(f"    {name:44}{rates['median']:,.0f} items/s ({rates['rounds']})")
    ratio = measured["json_of_text"]
    print(f"    {'json / text':44}{ratio['median']} ({ratio['rounds']})")
    for label, seconds in measured["questions"].items():
        print(f"    {label:44}{seconds * 1000:,.2f} ms")
