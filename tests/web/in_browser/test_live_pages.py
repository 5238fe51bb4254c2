"""A page goes with the journal while somebody looks at it, and leaves alone who types, pauses or leaves."""

import contextlib
import re
import socket
from collections.abc import Iterator

import pytest
from browser import Browser, connections_of, sockets_of
from consoles import Console
from everything import Everything
from support import Facts, until

from durable_bus import Text
from durable_bus.client.client import Client
from durable_bus.web.live import CONNECTIONS_MAX


@pytest.fixture
def gate(alive: Everything, request: pytest.FixtureRequest) -> Iterator[str]:
    """A file that items wait for; it is there in the end."""
    path = alive.folder / f"gate-{request.node.name}"
    yield str(path)
    path.touch()


def opened(gate: str) -> None:
    with open(gate, "w"):
        pass


def figures(browser: Browser) -> dict[str, int]:
    """Of a buffer's page."""
    pairs = browser.run(
        "return [...document.querySelectorAll('.figures > div')]"
        ".map(e => [e.querySelector('dt').textContent.trim(), e.querySelector('dd').textContent])"
    )
    return {name: int(re.sub(r"\D", "", value) or -1) for name, value in pairs}


def test_the_page_of_a_buffer_that_runs_ends_at_what_sql_says(
    browser: Browser, client: Client, rows: Facts, gate: str
) -> None:
    items = [Text("fine"), Text("bad live"), *[Text(f"gate {gate}")] * 6, Text("say this")]
    client.start("work", items, buffer_id="live")
    browser.open("/buffers/live")
    browser.run("window.same = true")
    opened(gate)
    client.buffer("live").wait(60)
    row = rows.dicts("SELECT * FROM buffers WHERE buffer_id = 'live'")[0]
    wanted = {"Items": row["total"], "Succeeded": row["successful"], "Failed": row["failed"]}
    until(lambda: figures(browser) == wanted, "the page says what SQL says")
    browser.says("complete", "h1")
    until(lambda: len(browser.all("#items tbody tr")) == row["total"], "all items are there")
    until(lambda: "bad live" in browser.text("#main"), "what has failed is there")
    assert browser.run("return window.same"), "it was not loaded anew"
    assert browser.log() == []


def test_the_overview_lists_what_begins_while_one_looks(browser: Browser, client: Client) -> None:
    browser.open("/")
    browser.run("window.same = true")
    client.start("work", [Text("fine")], buffer_id="just-begun")
    until(lambda: "just-begun" in browser.text(), "it is listed")
    assert browser.run("return window.same")


def test_focus_and_what_is_being_typed_outlast_what_happens(browser: Browser, client: Client) -> None:
    browser.open("/buffers")
    browser.one("#search").click()
    browser.press("half-ty")
    client.start("work", [Text("fine")], buffer_id="while-typing").wait(60)
    client.start("work", [Text("fine")], buffer_id="while-typing-more").wait(60)
    browser.press("ped")
    assert browser.run("return document.activeElement.value") == "half-typed"
    assert browser.focused == "INPUT search"
    browser.run("document.activeElement.blur()")
    client.start("work", [Text("fine")], buffer_id="when-nobody-types").wait(60)
    until(lambda: "when-nobody-types" in browser.text(), "it goes on when nobody types")
    assert browser.run("return document.getElementById('search').value") == "half-typed"


def test_the_focus_of_a_link_outlasts_what_happens(browser: Browser, client: Client) -> None:
    browser.open("/buffers")
    browser.run("document.querySelector('a[title=plain]').focus()")
    client.start("work", [Text("fine")], buffer_id="beside-a-focus").wait(60)
    until(lambda: "beside-a-focus" in browser.text(), "it is listed")
    assert browser.run("return document.activeElement.title") == "plain"


def test_pause_holds_a_page_as_it_is(browser: Browser, client: Client, web: Console) -> None:
    browser.open("/")
    browser.press("p")
    assert browser.text("#pause") == "Go on"
    assert browser.one("#pause").get_attribute("aria-pressed") == "true"
    before = browser.text()
    browser.run(
        "document.addEventListener('htmx:sse:before:message', () => { window.news = (window.news ?? 0) + 1 })"
    )
    client.start("work", [Text("fine")], buffer_id="while-paused").wait(60)
    until(lambda: browser.run("return window.news ?? 0") >= 1, "the page is told")
    assert "while-paused" not in browser.text()
    assert browser.text() == before
    browser.one("#pause").click()
    client.start("work", [Text("fine")], buffer_id="after-the-pause").wait(60)
    until(lambda: "while-paused" in browser.text(), "it goes on")


def test_a_page_that_nobody_sees_holds_no_connection(browser: Browser, client: Client, web: Console) -> None:
    pid = web.command.process.pid
    told: dict[frozenset[str], int] = {}

    def connections() -> int:
        """Asked anew when its sockets are others than before."""
        sockets = sockets_of(pid)
        if sockets not in told:
            told[sockets] = connections_of(pid, sockets)
        return told[sockets]

    web.browser.close()
    browser.open("/")
    browser.run("window.same = true")
    until(lambda: browser.all("body.live"), "the page listens")
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    try:
        until(lambda: connections() == 0, "who is not seen does not listen")
        client.start("work", [Text("fine")], buffer_id="while-hidden").wait(60)
    finally:
        browser.driver.close()
        browser.driver.switch_to.window(first)
    until(lambda: "while-hidden" in browser.text(), "it listens again, and says what has happened meanwhile")
    assert browser.run("return window.same")


def test_a_page_of_the_past_stays_as_it_was(browser: Browser, client: Client, alive: Everything) -> None:
    browser.open(f"/buffers?at={[*alive.copies][3]}")
    before = browser.text()
    client.start("work", [Text("fine")], buffer_id="not-in-the-past").wait(60)
    assert browser.all("body.live") == []
    assert browser.text() == before


def test_who_looks_is_told_when_the_console_has_gone(browser: Browser, alive: Everything) -> None:
    with Console(alive.journal) as other:
        browser.enter(other)
        until(lambda: browser.all("body.live"), "the page listens")
        other.end()
        browser.says("does not answer", "#lost")
        browser.log()


def test_a_first_connection_that_fails_is_tried_again(browser: Browser, alive: Everything) -> None:
    with Console(alive.journal) as other, contextlib.ExitStack() as taken:
        other.enter()
        for _ in range(CONNECTIONS_MAX):
            connection = taken.enter_context(socket.create_connection(("127.0.0.1", other.port)))
            lines = ["GET /live HTTP/1.1", f"Host: {other.host}", other.cookie, "", ""]
            connection.sendall("\r\n".join(lines).encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        browser.enter(other)
        browser.says("does not answer", "#lost")
        taken.close()
        until(lambda: browser.all("body.live"), "the page listens")
        browser.log()
