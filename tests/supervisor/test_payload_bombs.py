"""Payloads that would harm whoever looks into them: nobody does who need not, and who must fails one item."""

import base64
import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from apps import payload_kinds
from command_line import durable_bus
from daemons import Daemon
from services import Raw, connected
from support import TESTS, Facts

from durable_bus.payloads.items import ItemsDigest
from durable_bus.payloads.packing import pack

APP = "apps.payload_kinds:bus"
PICKLING = "apps.payload_kinds:pickling"


def submit(journal: Path, buffer_id: str, target: str, texts: list[str], forms: str) -> None:
    """As no client of ours would: nothing is looked at."""
    body, digest = pack(texts), ItemsDigest()
    digest.update(body, bytes(map(int, forms)))
    with Raw(journal) as raw:
        raw.hello()
        told = raw.ask(
            "submit", body, buffer_id=buffer_id, target=target, collect=True, count=len(texts), forms=forms,
            digest=digest.hexdigest(),
        )  # fmt: skip
        assert told["k"] == "opened", told


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    journal = tmp_path_factory.mktemp("plain") / "journal.db"
    with Daemon(journal, APP) as daemon:
        daemon.until_listening()
        connected(journal).close()
        yield journal


BOMBS = {
    "no JSON": "{",
    "two values": "1 2",
    "nested without end": "[" * 100_000,
    "nested deeply": "[" * 100_000 + "]" * 100_000,
    "objects in objects": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "a number of a million digits": "1" * 1_000_000,
    "a number beyond all floats": "1e999999999",
    "half a surrogate pair": r'"\ud800"',
    "NaN": "NaN",
    "no UTF-8 once it is unescaped": r'"\udfff\ud800"',
}


@pytest.mark.parametrize("what", BOMBS)
def test_json_that_cannot_be_read_fails_its_item_and_no_other(plain: Path, what: str) -> None:
    buffer_id = f"bomb-{list(BOMBS).index(what)}"
    submit(plain, buffer_id, "kind", ['{"a":1}', BOMBS[what], "[2]"], "222")
    facts = Facts(plain)
    facts.until_recorded(buffer_id, 3)
    rows = facts.rows(
        "SELECT success, payload FROM results WHERE buffer_id = ? ORDER BY item_index", buffer_id
    )
    assert [success for success, _ in rows] == [1, 0, 1]
    assert (rows[0][1], rows[2][1]) == ("dict", "list")
    assert "<code>malformed</code><message>not JSON: " in rows[1][1]


def test_a_buffer_with_such_items_can_be_retried(plain: Path) -> None:
    """Each goes out again as it was given, and fails again by itself."""
    submit(plain, "bombs", "kind", ["{", "1 2"], "22")
    facts = Facts(plain)
    facts.until_recorded("bombs", 2)
    with closing(connected(plain)) as client:
        again = client.retry("bombs")
        assert again.wait(60).successful == 0
    sql = "SELECT payload, form FROM items WHERE buffer_id = ? ORDER BY item_index"
    assert facts.rows(sql, "bombs.retry1") == facts.rows(sql, "bombs") == [("{", "json"), ("1 2", "json")]


class Bomb:
    """Whoever loads it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return open, (str(self._path), "w")


def pickled(value: object) -> str:
    return base64.b64encode(pickle.dumps(value)).decode()


def test_a_bus_that_does_not_pickle_loads_none(plain: Path, tmp_path: Path) -> None:
    made = tmp_path / "loaded"
    submit(plain, "pickled", "kind", [pickled(Bomb(made)), "text"], "30")
    facts = Facts(plain)
    facts.until_recorded("pickled", 2)
    rows = facts.rows("SELECT success, payload FROM results WHERE buffer_id = 'pickled' ORDER BY item_index")
    assert [success for success, _ in rows] == [0, 1]
    assert "a pickle came where Any, on a bus that loads no pickles, is expected" in rows[0][1]
    assert not made.exists()


def test_only_workers_and_who_asks_for_the_value_load_a_pickle(journal: Path, tmp_path: Path) -> None:
    made = tmp_path / "loaded"
    with payload_kinds.pickling.running(journal, workers=1) as client:
        buffer = client.start("echo", [payload_kinds.kind, 1j], buffer_id="b")
        assert buffer.wait(60).successful == 2
        assert [result.value for result in buffer.results()] == [payload_kinds.kind, 1j]
    facts = Facts(journal)
    assert facts.rows("SELECT DISTINCT form FROM results") == [("pickle",)]
    harmful = pickled(Bomb(made))
    for table in ("item", "result"):
        replace_payload(journal, table, harmful)
    for command in (
        ["results", "b"],
        ["results", "b", "--format", "jsonl", "--with-items"],
        ["results", "b", "--format", "csv"],
        ["export", "b", "--format", "jsonl"],
        ["status", "--json"],
        ["status", "b"],
        ["replay", "at", "5"],
        ["replay", "show"],
        ["check"],
        ["query", "SELECT * FROM results"],
        ["query", "SELECT payload, json, form FROM items", "--format", "json"],
    ):
        ran = durable_bus(*command, "--journal", journal, cwd=TESTS)
        assert ran.code in (0, 1), ran.err
        assert not made.exists(), command
    with payload_kinds.pickling.running(journal, workers=1) as client:
        results = list(client.buffer("b").results())
        assert not made.exists()
        with results[0].value as opened:
            assert opened.name == str(made)
    assert made.exists()


def replace_payload(journal: Path, table: str, text: str) -> None:
    with closing(sqlite3.connect(journal)) as connection, connection:
        assert connection.execute(f"UPDATE {table} SET payload = ?", [text]).rowcount == 2


def test_a_pickle_that_cannot_be_loaded_fails_its_item_only(journal: Path) -> None:
    with Daemon(journal, PICKLING) as daemon:
        daemon.until_listening()
        connected(journal).close()
        submit(journal, "b", "kind", ["no base64", pickled(1j), pickled(1j)[:8], "text"], "3330")
        facts = Facts(journal)
        facts.until_recorded("b", 4)
        rows = facts.rows("SELECT success FROM results ORDER BY item_index")
        assert rows == [(0,), (1,), (0,), (1,)]
        kinds = facts.rows("SELECT DISTINCT kind FROM failures")
        assert kinds == [("malformed",)]
