"""What a console does when it is asked for too much: it says so, stays quick, and takes no more memory."""

import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import eventful
import httpx
import pytest
from consoles import Console
from lxml import etree
from pages_read import words
from services import Service
from support import until

from durable_bus import Text
from durable_bus.web.connection import REQUEST_WITHIN_S
from durable_bus.web.guard import _fields
from durable_bus.web.server import _PAGES_AT_ONCE, IDLE_S

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
AT_ONCE = 2 * _PAGES_AT_ONCE
"""More than the threads that make pages."""
MEMORY = "this SQL takes more memory than there is for it here"


@pytest.fixture
def console(story: eventful.Story) -> Iterator[Console]:
    with Console(story.journal) as console:
        yield console.enter()


def mib_of(console: Console, what: str = "VmHWM") -> int:
    status = Path(f"/proc/{console.command.process.pid}/status").read_text()
    (kib,) = re.findall(rf"{what}:\s+(\d+) kB", status)
    return int(kib) // 1024


def asked(console: Console, sql: str) -> str:
    return words(etree.HTML(console.browser.get("/questions", params={"sql": sql}).text))


def asking(console: Console, sql: str) -> socket.socket:
    """The connection, once the head of the page is there, which does not wait for the answer."""
    connection = socket.create_connection(("127.0.0.1", console.port), 60)
    head = f"GET /questions?sql={quote(sql)} HTTP/1.1\r\nHost: {console.host}\r\n"
    connection.sendall(f"{head}{console.cookie}\r\n\r\n".encode())
    assert b"200 OK" in connection.recv(4096)
    return connection


def listens(console: Console) -> bool:
    try:
        socket.create_connection(("127.0.0.1", console.port), 60).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.slow
def test_sql_that_never_ends_keeps_no_page_waiting(console: Console) -> None:
    with ExitStack() as open_ones:
        for _ in range(AT_ONCE):
            open_ones.enter_context(asking(console, ENDLESS))
        began = time.monotonic()
        for path in ("/", "/static/style.css", "/buffers", "/questions"):
            assert console.browser.get(path).status_code == 200
        with console.browser.stream("GET", "/live") as live:
            assert next(live.iter_lines()).startswith("event: changed")
        assert time.monotonic() - began < 8, "the questions end after 10 s"
        console.command.ctrl_c()
        until(lambda: not listens(console), "it takes nobody any more")
        assert console.end().code == 0, "a second Ctrl-C ends it at once, whatever is asked"


@pytest.mark.slow
def test_ctrl_c_says_nothing_of_a_question_that_is_being_asked(console: Console) -> None:
    with asking(console, ENDLESS):
        began = time.monotonic()
        ran = console.end()
        assert (ran.code, ran.err) == (0, "")
        assert time.monotonic() - began < 5


@pytest.mark.slow
def test_sql_takes_no_more_memory_than_is_for_it(console: Console) -> None:
    before = mib_of(console)
    assert "too big" in asked(console, "SELECT zeroblob(900000000)")
    assert "too big" in asked(console, "SELECT hex(randomblob(400000000))")
    assert "too many columns" in asked(console, f"SELECT {', '.join('1' for _ in range(201))}")
    assert MEMORY in asked(console, f"SELECT {', '.join(['randomblob(30000000)'] * 20)}")
    assert "200 and more rows" in asked(console, "WITH n(x) AS (VALUES(1), (2), (3), (4), (5), (6)) "
        "SELECT zeroblob(3000000) FROM n, n, n")  # fmt: skip
    numbers = ENDLESS.replace("count(*)", "x, randomblob(10000) AS b")
    assert MEMORY in asked(console, f"{numbers} ORDER BY b")
    assert mib_of(console) - before < 450
    assert console.browser.get("/").status_code == 200


def test_a_cell_shows_the_beginning_of_what_is_long(console: Console) -> None:
    shown = asked(console, "SELECT 'é' || printf('%.*c', 9000, 'x'), CAST(x'61ff62' AS TEXT), x'00ff'")
    assert re.search("éx{290,298}… a\ufffdb 00ff", shown)


@pytest.mark.slow
def test_large_forms_take_little_memory(console: Console) -> None:
    before = mib_of(console)
    form = f"csrf={console.csrf()}&payload=".encode() + b"%C3%A9" * 1_400_000
    headers = {"Origin": console.address, "Content-Type": "application/x-www-form-urlencoded"}

    def send() -> httpx.Response:
        return console.browser.post("/messages/none/respond", content=form, headers=headers)

    with ThreadPoolExecutor(3) as pool:
        sent = [pool.submit(send) for _ in range(3)]
    assert {one.result().status_code for one in sent} == {303}
    assert mib_of(console) - before < 200


@pytest.mark.slow
def test_large_payloads_do_not_stay_in_memory(tmp_path: Path) -> None:
    """Whoever reads them does not, for a while."""
    text = "x" * 8_000_000
    journal = tmp_path / "journal.db"
    with Service(journal, "apps.everything:bus", workers=1) as service:
        service.until_ready()
        with service.client() as client:
            client.start("echo", [Text(text)], buffer_id="large").wait(60)
    with Console(journal) as console, ExitStack() as open_ones:
        before = mib_of(console.enter(), "VmRSS")
        for _ in range(20):
            connection = open_ones.enter_context(socket.create_connection(("127.0.0.1", console.port), 60))
            head = f"GET /buffers/large/items/0/payload HTTP/1.1\r\nHost: {console.host}\r\n"
            connection.sendall(f"{head}{console.cookie}\r\n\r\n".encode())
            assert b"200 OK" in connection.recv(100)
        assert console.browser.get("/").status_code == 200
        open_ones.close()
        assert console.browser.get("/buffers/large/items/0/payload").text == text
        until(lambda: mib_of(console, "VmRSS") - before < 40, "the memory is given back")
        assert mib_of(console) - before < 350


def test_a_form_is_read_as_it_was_sent() -> None:
    edge = 64 * 1024
    for length in range(edge - 4, edge + 3):
        text = "x" * length + "é%&=+ " + "\U0001f600" * edge
        body = f"a={'x' * length}%C3%A9%25%26%3D%2B+{'%F0%9F%98%80' * edge}&b=&&c"
        assert _fields(body.encode()) == [("a", text), ("b", ""), ("c", "")]
    assert _fields(b"a=%zz%4&b=%") == [("a", "%zz%4"), ("b", "%")]
    for wrong in (b"a=%ff", b"\xff=1"):
        with pytest.raises(ValueError, match="utf-8"):
            _fields(wrong)


@pytest.mark.slow
def test_who_says_nothing_does_not_stay(console: Console) -> None:
    begun = [b"", b"GET / HTTP/1.1\r\nHost: ", f"GET / HTTP/1.1\r\nHost: {console.host}\r\n\r\nG".encode()]
    with ExitStack() as open_ones, ThreadPoolExecutor(len(begun)) as pool:

        def stays_s(head: bytes) -> float:
            connection = socket.create_connection(("127.0.0.1", console.port), 3 * REQUEST_WITHIN_S)
            open_ones.enter_context(connection)
            connection.sendall(head)
            began = time.monotonic()
            while connection.recv(4096):
                pass
            return time.monotonic() - began

        live = open_ones.enter_context(console.browser.stream("GET", "/live"))
        for stayed in pool.map(stays_s, begun):
            assert stayed < REQUEST_WITHIN_S + 3
        lines = live.iter_lines()
        until(lambda: next(lines) == ": alive", "who listens stays")


def test_a_connection_is_let_go_by_the_client_first() -> None:
    """Who is closed down while it asks cannot know whether it was heard."""
    kept_s = httpx.Limits().keepalive_expiry
    assert kept_s is not None
    assert kept_s < IDLE_S


def test_a_number_with_thousands_of_digits_is_no_bug(console: Console) -> None:
    for path in ("/buffers/x/items/{}", "/buffers/x/items/{}/payload"):
        for digits in (11, 5_000, 60_000):
            assert console.browser.get(path.format("9" * digits)).status_code == 404
    assert console.end().err == ""
