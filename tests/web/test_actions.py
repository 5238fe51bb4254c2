"""What a person does by a form is in the journal when the page comes back."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from consoles import Console
from services import Service
from support import Facts

from durable_bus.client.client import Client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("acting")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    """One daemon for all of them; each test has its own buffers."""
    variables = {"REPAIRED": str(folder / "repaired")}
    with Service(folder / "journal.db", "apps.browsing:bus", workers=2, variables=variables) as service:
        service.until_ready()
        yield service


@pytest.fixture(scope="module")
def acting(service: Service) -> Iterator[Console]:
    with Console(service.journal) as console:
        yield console.enter()


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with service.client() as client:
        yield client


@pytest.fixture
def rows(service: Service) -> Facts:
    return service.facts


@pytest.fixture
def commit_before(rows: Facts) -> int:
    return newest_commit(rows)


def newest_commit(rows: Facts) -> int:
    return int(rows.value("SELECT max(commit_id) FROM journal_commit"))


def test_cancel(acting: Console, client: Client, rows: Facts, folder: Path, commit_before: int) -> None:
    client.start("gate", [str(folder / "opened")] * 3, buffer_id="to-cancel")
    assert acting.act("/buffers/to-cancel/cancel", back="/buffers/to-cancel") == "/buffers/to-cancel"
    (row,) = rows.dicts("SELECT * FROM buffers WHERE buffer_id = 'to-cancel'")
    assert (row["state"], row["ended_how"]) == ("cancelled", "cancelled")
    ended = rows.value("SELECT ended_commit FROM buffer WHERE buffer_id = 'to-cancel'")
    assert commit_before < ended <= newest_commit(rows)
    acting.act("/buffers/to-cancel/cancel")
    (folder / "opened").touch()  # what runs goes on
    assert rows.value("SELECT ended_commit FROM buffer WHERE buffer_id = 'to-cancel'") == ended


def test_pause_and_resume(
    acting: Console, client: Client, rows: Facts, folder: Path, commit_before: int
) -> None:
    door = folder / "door"
    client.start("gate", [str(door)] * 30, buffer_id="to-pause")
    acting.act("/buffers/to-pause/pause")
    paused = "SELECT paused FROM buffers WHERE buffer_id = 'to-pause'"
    assert rows.value(paused) == 1
    (paused_at,) = rows.rows("SELECT paused_commit FROM pause WHERE resumed_commit IS NULL")
    assert commit_before < paused_at[0] <= newest_commit(rows)
    acting.act("/buffers/to-pause/resume")
    assert rows.value(paused) == 0
    door.touch()
    assert client.buffer("to-pause").wait(60).successful == 30


def test_resume_with_more_of_a_budget(acting: Console, client: Client, rows: Facts) -> None:
    client.start("spend", ["1"] * 40, buffer_id="to-pay", budget={"usd": 2})
    rows.until("SELECT paused FROM buffers WHERE buffer_id = 'to-pay'")
    acting.act("/buffers/to-pay/resume", budget="usd=100.5\r\ntokens=7\r\n")
    seq = client.reader().buffer_seq("to-pay")
    added = rows.rows("SELECT unit, amount FROM budget WHERE buffer_seq = ? ORDER BY unit, amount", seq)
    assert added == [("tokens", 7.0), ("usd", 2.0), ("usd", 100.5)]
    assert client.buffer("to-pay").wait(60).successful == 40
    before = newest_commit(rows)
    for budget in ("usd", "usd=1\r\nusd=2", "usd=many", "usd=-1", "usd=nan", "u d=1"):
        acting.act("/buffers/to-pay/resume", budget=budget)
    assert newest_commit(rows) == before


ITEMS = ["no file 17", "ok", "no file 18", "refused by 'a'", "no file 19", "refused by 'b'"]


def until_ended(client: Client, buffer_id: str) -> None:
    client.buffer(buffer_id).wait(60)


def test_retry(acting: Console, client: Client, rows: Facts) -> None:
    client.start("fail", ITEMS, buffer_id="to-retry").wait(60)
    acting.act("/buffers/to-retry/retry")
    acting.act("/buffers/to-retry/retry")
    (again,) = rows.dicts("SELECT * FROM buffers WHERE retry_of = 'to-retry'")
    assert (again["buffer_id"], again["total"]) == ("to-retry.retry1", 5)
    until_ended(client, "to-retry.retry1")


def test_only_what_has_failed_alike_is_tried_again(acting: Console, client: Client, rows: Facts) -> None:
    client.start("fail", ITEMS, buffer_id="alike").wait(60)
    ((kind, message),) = rows.rows(
        "SELECT kind, message FROM failures WHERE buffer_id = 'alike' AND item_index = 4"
    )
    assert "no file 19" in message
    form = {"kind": kind, "pattern": message.replace("19", "#")}
    acting.act("/buffers/alike/retry-matching", **form)
    acting.act("/buffers/alike/retry-matching", **form)
    (again,) = rows.dicts("SELECT * FROM buffers WHERE retry_of = 'alike'")
    assert again["buffer_id"].startswith("alike.retry-")
    given = rows.rows("SELECT payload FROM items WHERE buffer_id = ? ORDER BY item_index", again["buffer_id"])
    assert [payload for (payload,) in given] == ["no file 17", "no file 18", "no file 19"]
    until_ended(client, again["buffer_id"])
    for other in ({**form, "kind": "timeout"}, {**form, "pattern": "no file 19"}, {}):
        acting.act("/buffers/alike/retry-matching", **other)
    acting.act("/buffers/none/retry-matching", **form)
    assert rows.value("SELECT count(*) FROM buffers WHERE retry_of = 'alike'") == 1


def test_a_limit_is_changed_and_reset(acting: Console, rows: Facts) -> None:
    limit = "SELECT rate, running, by_hand FROM limits WHERE name = 'api'"
    as_the_app_says = rows.rows(limit)
    acting.act("/limits/api", rate="7/min", running="2", back="/limits")
    assert rows.rows(limit) == [("7/min", 2, 1)]
    acting.act("/limits/api", rate="", running="1")
    assert rows.rows(limit) == [("7/min", 1, 1)]
    before = newest_commit(rows)
    wrong = [{"rate": "fast"}, {"running": "0"}, {"running": "-1"}, {"running": "1.5"}]
    for form in (*wrong, {"rate": "1/s", "reset": "1"}):
        acting.act("/limits/api", **form)
    acting.act("/limits/none", rate="1/s")
    assert newest_commit(rows) == before
    assert rows.rows(limit) == [("7/min", 1, 1)]
    acting.act("/limits/api", rate="", running="", reset="1")
    assert rows.rows(limit) == as_the_app_says


# Messages


def asked(rows: Facts, client: Client, buffer_id: str) -> str:
    """The message by which an item asks the person."""
    client.start("ask", ["why?"], buffer_id=buffer_id)
    return str(
        rows.until(
            "SELECT message_id FROM messages WHERE to_id = 'person' AND thread_id LIKE ?", f"%/{buffer_id}%"
        )
    )


@pytest.fixture
def person(service: Service) -> None:
    """Has a mailbox."""
    service.client("person").close()


@pytest.mark.usefixtures("person")
def test_a_message_is_answered(acting: Console, client: Client, rows: Facts) -> None:
    message_id = asked(rows, client, "to-answer")
    acting.act(f"/messages/{message_id}/respond", payload="because\r\nof <this>")
    assert client.buffer("to-answer").wait(60).successful == 1
    results = rows.rows("SELECT payload FROM results WHERE buffer_id = 'to-answer'")
    assert results == [("because\nof <this>",)]
    assert rows.value("SELECT state FROM messages WHERE message_id = ?", message_id) == "settled"
    acting.act(f"/messages/{message_id}/respond", payload="again")
    assert rows.rows("SELECT payload FROM results WHERE buffer_id = 'to-answer'") == results


@pytest.mark.usefixtures("person")
def test_a_message_is_acknowledged(acting: Console, client: Client, rows: Facts) -> None:
    message_id = asked(rows, client, "to-acknowledge")
    acting.act(f"/messages/{message_id}/acknowledge")
    assert rows.value("SELECT state FROM messages WHERE message_id = ?", message_id) == "settled"
    assert client.buffer("to-acknowledge").wait(60).successful == 0


def test_a_message_that_somebody_has_is_left_to_him(
    acting: Console, service: Service, client: Client, rows: Facts
) -> None:
    with service.client("person") as person:
        message_id = asked(rows, client, "in-hand")
        message = person.receive(60)
        assert message.message_id == message_id
        acting.act(f"/messages/{message_id}/respond", payload="from the console")
        acting.act(f"/messages/{message_id}/acknowledge")
        assert rows.value("SELECT state FROM messages WHERE message_id = ?", message_id) == "delivered"
        person.respond(message, "from me")
    client.buffer("in-hand").wait(60)
    assert rows.rows("SELECT payload FROM results WHERE buffer_id = 'in-hand'") == [("from me",)]


def test_a_message_to_no_mailbox_is_refused(
    acting: Console, client: Client, rows: Facts, folder: Path
) -> None:
    mailboxes = rows.rows("SELECT name FROM mailbox")
    acting.act("/messages/none/acknowledge")
    acting.act("/messages/a/b/c/respond", payload="x")
    listened = rows.value(
        "SELECT message_id FROM messages WHERE to_id NOT IN (SELECT name FROM mailbox) LIMIT 1"
    )
    if listened is not None:
        acting.act(f"/messages/{listened}/acknowledge")
    assert rows.rows("SELECT name FROM mailbox") == mailboxes


def test_prune(acting: Console, client: Client, rows: Facts) -> None:
    client.start("fail", ["ok"], buffer_id="old").wait(60)
    acting.act("/prune", older_than="1d")
    assert rows.value("SELECT state FROM buffers WHERE buffer_id = 'old'") == "complete"
    for age in ("", "0", "1y", "-1d", "1d 2h"):
        acting.act("/prune", older_than=age)
    assert rows.value("SELECT state FROM buffers WHERE buffer_id = 'old'") == "complete"
    time.sleep(0.01)  # older than now
    acting.act("/prune", older_than="0s")
    rows.until("SELECT state = 'pruned' FROM buffers WHERE buffer_id = 'old'")


def test_what_is_refused_changes_nothing(acting: Console, rows: Facts) -> None:
    before = newest_commit(rows)
    for path in ("cancel", "pause", "resume", "retry"):
        acting.act(f"/buffers/none/{path}")
    acting.act("/buffers/%22%3E%3Cscript%3E/cancel")
    assert newest_commit(rows) == before
    for path in ("/buffers/none/cancel", "/limits/api", "/prune"):
        assert acting.browser.get(path).status_code in (404, 405)
    assert acting.post("/buffers/none/drop").status_code in (404, 405)
