"""A page of the past says what a copy of the journal says that was made then."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from everything import Everything
from lxml import etree
from pages_read import Pages, number, words
from support import Facts

from durable_bus.cli.printing import rate
from durable_bus.web.addresses import without_parameter

STATES = ("receiving", "open", "complete", "cancelled", "pruned")
ITEM_STATES = ("succeeded", "failed", "in_flight", "forwarded", "waiting", "missing")


def as_then(page: Any) -> list[str]:
    """What a page says of a moment: not what it says of now only, nor how long ago something was."""
    main = page.main
    for name in ("hx-get", "hx-trigger", "hx-select", "hx-swap"):
        main.attrib.pop(name, None)
    gone = [
        "./p[@class='served']", ".//p[contains(@class, 'notice')]", ".//input[@name='at']",
        ".//section[h2='Open']//p[@class='empty']",
        ".//td[contains(@class, 'bar')]/small", ".//section[h2[starts-with(., 'Results of 5')]]", ".//code",
        ".//div[dt='Now' or dt='Failed, 5 min']", ".//section[h2[.='Waiting']]",
    ]  # fmt: skip
    for path in gone:
        for element in main.xpath(path):
            element.drop_tree()
    for time in main.xpath(".//time"):
        time.text = ""
    for link in main.xpath(".//*[@href]"):
        link.set("href", without_parameter(link.get("href"), "at"))
    return re.sub(r"\s+", " ", etree.tostring(main, encoding="unicode")).replace("><", "> <").split("> <")


def addresses(facts: Facts) -> Iterator[str]:
    """Of all pages that go with time, but for the past of what was pruned later."""
    yield "/"
    yield "/messages"
    for state in STATES:
        yield f"/buffers?state={state}"
    yield "/buffers?failures=1"
    for (buffer_id,) in facts.rows("SELECT buffer_id FROM buffers WHERE buffer_id <> 'old'"):
        yield f"/buffers/{buffer_id}"
        for (index,) in facts.rows("SELECT item_index FROM items WHERE buffer_id = ? LIMIT 2", buffer_id):
            yield f"/buffers/{buffer_id}/items/{index}"
    for (buffer_id,) in facts.rows("SELECT buffer_id FROM buffers WHERE state = 'open'"):
        for state in ITEM_STATES:
            yield f"/buffers/{buffer_id}?state={state}"
    for (message_id,) in facts.rows("SELECT message_id FROM messages ORDER BY created_at DESC LIMIT 5"):
        yield f"/messages/{message_id}"


@pytest.mark.slow
def test_the_past_is_as_it_was(everything_told: Everything) -> None:
    """At each moment every second page, at the next one the others. Those before the prune: see below."""
    later = Pages(everything_told.journal)
    is_pruned = "SELECT state = 'pruned' FROM buffers WHERE buffer_id = 'old'"
    copies = {commit: copy for commit, copy in everything_told.copies.items() if Facts(copy).value(is_pruned)}
    assert len(copies) > 10
    for turn, (commit, copy) in enumerate(copies.items()):
        then, facts = Pages(copy), Facts(copy)
        for address in [*addresses(facts)][turn % 2 :: 2]:
            path, _, query = address.partition("?")
            parameters = dict(pair.split("=") for pair in query.split("&")) if query else {}
            was = as_then(then.get(path, **parameters))
            is_now = as_then(later.get(path, **parameters, at=commit))
            assert is_now == was, f"{address} at {commit}, {copy}"


def test_limits_then(everything_told: Everything) -> None:
    later = Pages(everything_told.journal)
    columns = ("Limit", "Rate", "At once", "Allowed now", "Set")
    hands = ("Process", "Place", "Listeners", "Items")  # what was taken back since is a batch of its own now
    for commit, copy in everything_told.copies.items():
        was, then = Pages(copy).get("/workers"), later.get("/workers", at=commit)
        told = [[[row[name] for name in columns] for row in page.rows("Limits")] for page in (was, then)]
        assert told[0] == told[1]
        told = [[[row[name] for name in hands] for row in page.rows("Workers")] for page in (was, then)]
        assert told[0] == told[1]


def test_what_was_done_by_hand_then(everything_told: Everything) -> None:
    later = Pages(everything_told.journal)
    for commit, copy in everything_told.copies.items():
        told = []
        for page in (Pages(copy).get("/time"), later.get("/time", at=commit)):
            for time in page.main.xpath(".//time"):
                time.text = ""
            told.append([words(line) for line in page.section("Done by hand").xpath(".//li")])
        assert told[0] == told[1]


def test_the_past_of_what_was_pruned_says_so(everything_told: Everything) -> None:
    pages = Pages(everything_told.journal)
    page = pages.get("/buffers/old", at=min(everything_told.copies))
    assert words(page.main.find("h1")) == "old complete"
    assert "were pruned since" in words(page.main)
    assert page.pairs("figures")["Succeeded"] == "2"  # its row still says
    status, why = pages.refusal("/buffers/old/items/0", at=min(everything_told.copies))
    assert (status, "pruned" in why) == (404, True)
    opened = everything_told.facts.value("SELECT opened_commit FROM buffer WHERE buffer_id = 'old'")
    page = pages.get("/buffers/old", at=opened)
    assert page.pairs("figures")["Succeeded"] == "—"  # nobody knows any more
    assert number(page.pairs("figures")["Items"]) == 3


def test_a_moment_is_a_commit_or_a_time(everything_told: Everything) -> None:
    pages, facts = Pages(everything_told.journal), everything_told.facts
    newest = facts.value("SELECT max(commit_id) FROM journal_commit")
    commit, at_ms = facts.rows(
        "SELECT commit_id, committed_at FROM journal_commit ORDER BY 1 DESC LIMIT 1 OFFSET 9"
    )[0]
    moment = datetime.fromtimestamp(at_ms / 1000).astimezone()
    same = "SELECT max(commit_id) FROM journal_commit WHERE committed_at <= ?"
    wanted = str(facts.value(same, at_ms))
    for text in (moment.isoformat(), (moment - moment.utcoffset()).replace(tzinfo=None).isoformat()):  # type: ignore[operator]
        page = pages.get("/", at=text)
        assert page.tree.xpath("//input[@id='at']/@value") == [wanted]
    assert pages.get("/", at=commit).tree.xpath("//input[@id='at']/@value") == [str(commit)]
    assert pages.get("/", at=(moment + timedelta(days=400)).isoformat()).tree.xpath(
        "//input[@id='at']/@value"
    ) == [str(newest)]
    for text in (
        newest + 1,
        10**17,
        10**30,
        0,
        -1,
        "yesterday",
        "2026-99-99",
        "0001-01-01",
        "١",
        "²",
        "1.5",
        "\x1b",
        "'",
    ):
        status, why = pages.refusal("/", at=text)
        assert (status, len(why) > 10) == (400, True), text
        assert "\x1b" not in why


def test_links_keep_the_moment_and_lead_back_to_now(everything_told: Everything) -> None:
    pages = Pages(everything_told.journal)
    page = pages.get("/buffers/failing", at=60, state="failed")
    assert page.links("Back to now") == ["/buffers/failing?state=failed"]
    assert page.links("One back") == ["/buffers/failing?state=failed&at=59"]
    assert page.links("One on") == ["/buffers/failing?state=failed&at=61"]
    for link in page.main.xpath(".//a/@href"):
        assert "at=60" in link
    for link in page.tree.xpath("//nav//a/@href"):
        assert "at=60" in link
    assert not page.main.xpath(".//form[@method='post']")
    crashed = everything_told.facts.value("SELECT max(commit_id) FROM journal_commit WHERE run_id = 1")
    assert page.links("Crash before") == [f"/buffers/failing?state=failed&at={crashed}"]


def test_the_ends_of_time_have_no_link_beyond(everything_told: Everything) -> None:
    pages = Pages(everything_told.journal)
    newest = everything_told.facts.value("SELECT max(commit_id) FROM journal_commit")
    for at in (1, newest, None):
        for link in pages.get("/", at=at).tree.xpath("//section[@aria-label='Time']//a/@href"):
            found = re.search(r"at=(\d+)", link)
            assert found is None or 1 <= int(found[1]) <= newest, (at, link)


def test_how_fast_it_goes_is_of_the_last_ten_seconds_to_the_moment(everything_told: Everything) -> None:
    """Also in the first ten: a newcomer looks at what has just begun."""
    pages = Pages(everything_told.journal)
    sql = """SELECT sum(c.results + c.failures) FROM journal_commit c, journal_commit now
        WHERE now.commit_id = ? AND c.commit_id <= now.commit_id
            AND c.committed_at > now.committed_at - 10000"""
    shown = set()
    for commit in everything_told.copies:
        figure = pages.get("/", at=commit).pairs("figures")["Now"]
        assert figure == rate(everything_told.facts.value(sql, commit), 10)
        shown.add(figure)
    assert len(shown) > 2
