"""What a page says is what the views say: of the journal as it is, and of copies that were made before."""

import re
from collections import Counter
from typing import Any

import pytest
from everything import Everything
from pages_read import Pages, number, words
from support import Facts

STATES = ("receiving", "open", "complete", "cancelled", "pruned")
ITEM_STATES = ("succeeded", "failed", "in_flight", "forwarded", "waiting", "missing")


@pytest.fixture(scope="session")
def looks(everything_told: Everything) -> list[tuple[Pages, Facts]]:
    """Of the journal as it is, and of copies that were made on the way."""
    journals = [*everything_told.copies.values(), everything_told.journal]
    return [(Pages(journal), Facts(journal)) for journal in journals]


def shown_state(row: dict[str, Any]) -> str:
    """As the console writes it."""
    state = "paused" if row["paused"] and row["state"] == "open" else str(row["state"])
    if row["ended_how"] not in (None, "all", "cancelled"):
        state += f" ({row['ended_how']})"
    if row["state"] == "open" and row["sealed_at"] is None:
        state += ", not sealed"
    return state


def progress_of(row: dict[str, Any]) -> str:
    total = f"{row['total']:,}"
    return total if row["completed"] == row["total"] else f"{row['completed']:,} of {total}"


def one_line(text: str, chars: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


# Now


def test_the_overview(looks: list[tuple[Pages, Facts]]) -> None:
    for pages, facts in looks:
        page = pages.get("/")
        figures = page.pairs("figures")
        states = Counter(state for (state,) in facts.rows("SELECT state FROM buffers"))
        assert number(figures["Open buffers"]) == states["open"] + states["receiving"]
        for state in ("complete", "cancelled", "pruned"):
            assert number(figures.get(state.capitalize(), "0")) == states[state]
        in_hand = facts.rows("SELECT coalesce(sum(item_count), 0), count(DISTINCT worker_pid) FROM in_flight")
        assert [int(found) for found in re.findall(r"\d+", figures["In hand"])] == [*in_hand[0]]
        for heading, condition in (
            ("Open", "IN ('open', 'receiving')"),
            ("Ended", "NOT IN ('open', 'receiving')"),
        ):
            rows = page.rows(heading)
            ids = facts.rows(
                f"SELECT buffer_id FROM buffers WHERE state {condition} ORDER BY created_at DESC"
            )
            shown = [row["Buffer"] for row in rows]
            assert len(shown) == len(set(shown))
            assert set(shown) <= {buffer_id for (buffer_id,) in ids}
            assert len(shown) == min(len(ids), 20 if heading == "Open" else 8)
        failed = facts.rows("SELECT buffer_id, item_index, kind, message FROM failures ORDER BY failed_at")
        lines = [words(line) for line in page.section("Failed last").xpath(".//li")]
        assert len(lines) == min(6, len(failed))
        texts = [f"{buffer} item {index} {kind} {message}" for buffer, index, kind, message in failed]
        assert all(any(line.startswith(text) for text in texts) for line in lines)


def test_the_rates_of_the_overview(looks: list[tuple[Pages, Facts]]) -> None:
    """Of the five minutes before the newest commit, in which all of this has happened."""
    for pages, facts in looks:
        page = pages.get("/", at=facts.value("SELECT max(commit_id) FROM journal_commit"))
        results, failures = facts.rows("SELECT sum(results), sum(failures) FROM throughput")[0]
        assert number(words(page.section("Results of 5 minutes").find("h2/small"))) == results
        assert number(page.pairs("figures")["Failed, 5 min"]) == failures


@pytest.mark.parametrize("failures", [None, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "state",
    [None, "complete", *(pytest.param(one, marks=pytest.mark.slow) for one in STATES if one != "complete")],
)
def test_the_list_of_buffers(
    looks: list[tuple[Pages, Facts]], state: str | None, failures: int | None
) -> None:
    for pages, facts in looks[2::4]:
        for target in (None, "work", "Odd.name_-9"):
            for part in (None, "p", "LAIN", "-long.id"):
                rows = facts.dicts(
                    "SELECT * FROM buffers WHERE (? IS NULL OR state = ?) AND (? IS NULL OR target = ?)"
                    " AND (? IS NULL OR instr(buffer_id, ?)) AND (? IS NULL OR failed > 0)",
                    state, state, target, target, part, part, failures,
                )  # fmt: skip
                found = pages.get("/buffers", state=state, target=target, part=part, failures=failures).rows()
                told = {row["Buffer"]: row for row in found}
                assert len(told) == len(found) == len(rows)
                for row in rows:
                    shown = told[row["buffer_id"]]
                    assert shown["State"] == shown_state(row)
                    assert shown["Listener"] == row["target"]
                    assert shown["Items"] == progress_of(row)
                    assert number(shown["Failed"]) == row["failed"]


def test_the_newest_buffers_come_first(looks: list[tuple[Pages, Facts]]) -> None:
    pages, facts = looks[-1]
    created = dict(facts.rows("SELECT buffer_id, created_at FROM buffers"))
    times = [created[row["Buffer"]] for row in pages.get("/buffers").rows()]
    assert times == sorted(times, reverse=True)


@pytest.mark.slow
def test_a_buffer(looks: list[tuple[Pages, Facts]]) -> None:
    for pages, facts in looks:
        for row in facts.dicts("SELECT * FROM buffers"):
            buffer_id = row["buffer_id"]
            page = pages.get(f"/buffers/{buffer_id}")
            assert words(page.main.find("h1")) == f"{buffer_id} {shown_state(row)}"
            figures = page.pairs("figures")
            assert number(figures["Items"]) == row["total"]
            assert number(figures["Succeeded"]) == row["successful"]
            assert number(figures["Failed"]) == row["failed"]
            facts_told = page.pairs("facts")
            assert facts_told["Listener"] == row["target"]
            assert facts_told.get("Retry of") == row["retry_of"]
            assert number(facts_told.get("Priority", "0")) == row["priority"]
            spent = facts.rows(
                "SELECT listener, unit, sum(amount) FROM spending WHERE buffer_id = ? GROUP BY 1, 2",
                buffer_id,
            )
            assert ("Spent" in facts_told) == bool(spent)
            for listener, unit, amount in spent:
                assert f"{amount:g} {unit} by {listener}" in facts_told["Spent"]
            if row["state"] == "pruned":
                assert "were pruned" in words(page.main)
                continue
            states = facts.rows("SELECT state FROM items WHERE buffer_id = ?", buffer_id)
            counts = Counter(state for (state,) in states)
            for state in ITEM_STATES:
                name = state.replace("_", " ").capitalize()
                assert number(figures.get(name, "0")) == counts[state], (buffer_id, state, pages.journal)
            assert Counter(heat(page.titles("heat"))) == counts


def heat(titles: list[str]) -> dict[str, int]:
    """The sums of a heat map, by state."""
    sums: Counter[str] = Counter()
    for title in titles:
        for count, state in re.findall(r"([\d,]+) ([a-z][a-z ]+)", title.partition(": ")[2]):
            sums[state.replace(" ", "_")] += int(count.replace(",", ""))
    return sums


@pytest.mark.slow
def test_what_failed_in_a_buffer(looks: list[tuple[Pages, Facts]]) -> None:
    for pages, facts in looks:
        for (buffer_id,) in facts.rows("SELECT buffer_id FROM buffers WHERE state <> 'pruned'"):
            rows = pages.get(f"/buffers/{buffer_id}").rows("What failed")
            kinds: Counter[str] = Counter()
            for row in rows:
                kinds[row["Kind"]] += number(row["Attempts"]) or 0
            sql = "SELECT kind, count(*) FROM failures WHERE buffer_id = ? GROUP BY 1"
            assert +kinds == Counter(dict(facts.rows(sql, buffer_id)))
            (failed,) = facts.rows(
                "SELECT count(*) FROM items WHERE buffer_id = ? AND state = 'failed'", buffer_id
            )
            assert sum(number(row["Items"]) or 0 for row in rows) == failed[0]


ITEM_SQL = """
SELECT i.item_index, i.state, i.payload, i.attempts, r.payload AS answer, r.success, r.attempt, r.duration_ms,
    (SELECT f.kind || ': ' || f.message FROM failures f WHERE f.item_key = i.item_key
        ORDER BY f.attempt DESC LIMIT 1) AS failure
FROM items i LEFT JOIN results r USING (item_key)
WHERE i.buffer_id = ? ORDER BY i.item_index
"""


@pytest.mark.slow
def test_the_items_of_a_buffer(looks: list[tuple[Pages, Facts]]) -> None:
    for pages, facts in looks[2::3]:
        for (buffer_id,) in facts.rows("SELECT buffer_id FROM buffers WHERE state <> 'pruned'"):
            items = facts.dicts(ITEM_SQL, buffer_id)
            for state in (None, *ITEM_STATES):
                wanted = [item for item in items if state in (None, item["state"])]
                rows = pages.get(f"/buffers/{buffer_id}", state=state).rows("The items")
                assert [number(row["Item"]) for row in rows] == [item["item_index"] for item in wanted]
                for item, row in zip(wanted, rows, strict=True):
                    assert row["State"] == item["state"].replace("_", " ")
                    assert row["Payload"] == one_line(item["payload"], 60)
                    said = row["Answer, or why it failed"]
                    if item["success"]:
                        assert said == one_line(item["answer"], 60)
                        assert row["Attempt"] == str(item["attempt"])
                        assert (row["Took"] == "—") == (item["duration_ms"] is None)
                    else:
                        assert said == one_line(item["failure"] or item["answer"] or "", 80)


def test_a_page_of_items_goes_on(looks: list[tuple[Pages, Facts]]) -> None:
    pages, _ = looks[-1]
    rows = pages.get("/buffers/plain", **{"from": 7}).rows("The items")
    assert [number(row["Item"]) for row in rows] == [7, 8, 9]
    assert pages.get("/buffers/plain", **{"from": 10}).rows("The items") == []


@pytest.mark.slow
def test_an_item(looks: list[tuple[Pages, Facts]]) -> None:
    for pages, facts in looks[2::3]:
        for (buffer_id,) in facts.rows("SELECT buffer_id FROM buffers WHERE state <> 'pruned'"):
            for item in facts.dicts(ITEM_SQL, buffer_id)[:4]:
                index = item["item_index"]
                address = f"/buffers/{buffer_id}/items/{index}"
                page = pages.get(address)
                assert (
                    words(page.main.find("h1"))
                    == f"{buffer_id} item {index} {item['state'].replace('_', ' ')}"
                )
                assert pages.response(f"{address}/payload").text == item["payload"]
                if item["answer"] is None:
                    assert pages.refusal(f"{address}/answer")[0] == 404
                else:
                    assert pages.response(f"{address}/answer").text == item["answer"]
                story = [words(line) for line in page.section("What happened").xpath(".//li")]
                failed = facts.rows(
                    "SELECT attempt, kind, message FROM failures WHERE buffer_id = ? AND item_index = ?",
                    buffer_id,
                    index,
                )
                told = [line for line in story if re.search(r"attempt \d+ failed", line)]
                assert len(told) == len(failed)
                for attempt, kind, message in failed:
                    assert any(f"attempt {attempt} failed: {kind}: {message}" in line for line in told)
                sql = """SELECT count(*), coalesce(sum(ended IN ('died', 'crashed', 'returned')), 0)
                    FROM dispatches
                    WHERE buffer_id = ? AND ? BETWEEN first_index AND first_index + item_count - 1"""
                handed, lost = facts.rows(sql, buffer_id, index)[0]
                assert sum("handed to" in line for line in story) == handed
                ends = ("died", "the supervisor crashed", "taken back before it began")
                assert sum(line.endswith(ends) for line in story) == lost


def test_workers_and_limits(looks: list[tuple[Pages, Facts]]) -> None:
    for pages, facts in looks:
        page = pages.get("/workers")
        told = {row["Process"]: (row["Batches"], row["Items"]) for row in page.rows("Workers")}
        sql = "SELECT worker_pid, count(*), sum(item_count) FROM in_flight GROUP BY 1"
        assert told == {str(pid): (str(batches), str(items)) for pid, batches, items in facts.rows(sql)}
        limits = {row["Limit"]: row for row in page.rows("Limits")}
        rows = facts.dicts("SELECT * FROM limits")
        assert [*limits] == [row["name"] for row in rows]
        for row in rows:
            shown = limits[row["name"]]
            assert shown["Rate"] == (row["rate"] or "any")
            assert number(shown["At once"]) == row["running"]
            assert number(shown["Allowed now"]) == row["allowed"]
            assert number(shown["In hand"]) == row["in_hand"]
            assert shown["Set"] == ("by hand" if row["by_hand"] else "by the app")
        deaths = [words(line) for line in page.section("Deaths").xpath(".//li")]
        lost = facts.rows(
            "SELECT ended, worker_pid, buffer_id FROM dispatches WHERE ended IN ('died', 'crashed')"
        )
        assert sum("died" in line for line in deaths) == sum(ended == "died" for ended, *_ in lost)
        assert len(deaths) == len(lost)


@pytest.mark.slow
def test_messages(looks: list[tuple[Pages, Facts]]) -> None:
    for pages, facts in looks:
        for state in (None, "waiting", "delivered", "settled", "failed"):
            for to_id in (None, "person"):
                rows = facts.dicts(
                    "SELECT * FROM messages WHERE (? IS NULL OR state = ?) AND (? IS NULL OR to_id = ?)",
                    state, state, to_id, to_id,
                )  # fmt: skip
                page = pages.get("/messages", state=state, to=to_id)
                tables = page.main.xpath(".//table[thead//th[text() = 'Says']]")
                shown = (
                    [[words(cell) for cell in row] for row in tables[0].xpath("./tbody/tr")] if tables else []
                )
                wanted = [
                    (row["kind"], row["state"], row["from_id"], row["to_id"], one_line(row["payload"], 80))
                    for row in rows
                ]
                assert Counter(tuple(row[:5]) for row in shown) == Counter(wanted)
        waiting = {row["For"]: (row["Waiting"], row["Delivered"]) for row in waiting_rows(pages)}
        sql = """SELECT to_id, sum(state = 'waiting'), sum(state = 'delivered')
            FROM messages WHERE settled_at IS NULL GROUP BY 1"""
        assert waiting == {name: (str(one), str(other)) for name, one, other in facts.rows(sql)}


def waiting_rows(pages: Pages) -> list[dict[str, str]]:
    page = pages.get("/messages")
    return page.rows("Waiting") if "Waiting" in [words(one) for one in page.main.xpath(".//h2")] else []


def test_a_message(looks: list[tuple[Pages, Facts]]) -> None:
    pages, facts = looks[-1]
    for row in facts.dicts("SELECT * FROM messages"):
        page = pages.get(f"/messages/{row['message_id']}")
        told = page.pairs("facts")
        assert told["Id"] == row["message_id"]
        assert told["From"] == row["from_id"]
        assert told["Thread"] == row["thread_id"]
        assert told["To"] == (row["to_id"] or "nobody: it is the record")
        if row["form"] == "text":
            assert page.main.xpath(".//pre")[0].text_content() == row["payload"]
        (thread,) = facts.rows(
            "SELECT count(*) FROM messages"
            " WHERE thread_id = ? OR substr(thread_id, 1, length(?) + 1) = ? || '/'",
            *[row["thread_id"]] * 3,
        )
        assert len(page.main.xpath(".//svg[contains(@class, 'thread')]//a")) == thread[0]


def test_runs(looks: list[tuple[Pages, Facts]]) -> None:
    for pages, facts in looks:
        rows = pages.get("/time").rows("Runs")
        told = [(number(row["Run"]), row["App"], number(row["Process"])) for row in rows]
        assert told == facts.rows("SELECT run_id, app, pid FROM runs ORDER BY run_id DESC")
        # The view cannot know whether the newest run lives. Nobody serves these.
        ends = [
            ended.replace("running", "crashed")
            for (ended,) in facts.rows("SELECT ended FROM runs ORDER BY run_id DESC")
        ]
        assert [row["Ended"] for row in rows] == ends
