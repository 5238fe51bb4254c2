"""What a person is told of an action: once, on the page that comes next."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import eventful
import httpx
import pytest
from services import Service

from durable_bus import __version__
from durable_bus.web.app import Console, make_app
from durable_bus.web.notices import NOTICES_MAX, Notice, Notices

TOKEN = "a-token-of-the-tests"
ADDRESS = "http://127.0.0.1:8383"


def test_a_notice_is_taken_once() -> None:
    notices = Notices()
    notice_id = notices.put("done")
    failed_id = notices.put("not done", failed=True)
    assert notices.take(notice_id) == Notice("done", False)
    assert notices.take(notice_id) is None
    assert notices.take(failed_id) == Notice("not done", True)
    assert notices.take("x") is None


def test_the_oldest_notices_are_forgotten() -> None:
    notices = Notices()
    ids = [notices.put(str(number)) for number in range(NOTICES_MAX + 2)]
    assert [notices.take(notice_id) for notice_id in ids[:3]] == [None, None, Notice("2", False)]
    assert len(set(ids)) == len(ids)


async def _said(console: Console, path: str, fields: dict[str, Any]) -> Notice | int:
    transport = httpx.ASGITransport(app=console)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url=ADDRESS) as browser:
        assert (await browser.get("/", params={"token": TOKEN})).status_code == 200
        fields = {"csrf": console.csrf, **fields}
        response = await browser.post(path, data=fields, headers={"Origin": ADDRESS})
        if response.status_code != 303:
            return response.status_code
        notice = console.inside.state.notices.take(response.headers["location"].rpartition("notice=")[2])
        assert isinstance(notice, Notice)
        return notice


def said(journal: Path, path: str, *, read_only: bool = False, **fields: Any) -> Notice | int:
    """What is said of an action; the status, when there is none of that name."""
    console = make_app(journal, token=TOKEN, host="127.0.0.1", port=8383, read_only=read_only)
    return asyncio.run(_said(console, path, fields))


ACTIONS = [
    "/buffers/{}/cancel", "/buffers/{}/pause", "/buffers/{}/resume", "/buffers/{}/retry",
    "/buffers/{}/retry-matching", "/limits/{}", "/messages/{}/respond", "/messages/{}/acknowledge", "/prune",
]  # fmt: skip
FIELDS = {"payload": "x", "older_than": "1d"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """By a daemon in which much has happened."""
    folder = tmp_path_factory.mktemp("served")
    with Service(folder / "journal.db", "apps.browsing:bus", workers=1) as service:
        service.until_ready()
        with service.client("person") as client:
            client.start("fail", ["a 1", "a 2", "ok"], buffer_id="done").wait(60)
        yield service.journal


@pytest.mark.parametrize("path", ACTIONS)
def test_a_console_that_only_shows_has_no_actions(served: Path, path: str) -> None:
    assert said(served, path.format("done"), read_only=True, **FIELDS) in (404, 405)


@pytest.mark.parametrize("path", ACTIONS)
def test_without_a_daemon_nothing_is_done(story: eventful.Story, path: str) -> None:
    notice = said(story.journal, path.format("x"), **FIELDS)
    assert isinstance(notice, Notice)
    assert notice.failed
    assert notice.text.startswith(("no daemon serves", "no message 'x'")), notice.text


@pytest.mark.parametrize("path", ACTIONS)
def test_a_console_of_another_version_only_shows(copied: Path, path: str) -> None:
    with closing(sqlite3.connect(copied)) as connection, connection:
        connection.execute("UPDATE run SET version = '9.9.9' WHERE run_id = (SELECT max(run_id) FROM run)")
    notice = said(copied, path.format("x"), **FIELDS)
    assert notice == Notice(
        f"durable_bus 9.9.9 serves this journal, and this console is {__version__}: start the console anew, "
        "of the same version",
        True,
    )


@pytest.mark.parametrize(
    ("path", "fields", "text"),
    [
        ("/buffers/none/cancel", {}, "no buffer 'none'"),
        ("/buffers/none/retry", {}, "no buffer 'none' in "),
        (
            "/buffers/done/retry-matching",
            {"kind": "exception", "pattern": "b"},
            "no item of done has failed like",
        ),
        ("/buffers/done/resume", {"budget": "usd"}, "budget: 'usd' is no UNIT=AMOUNT such as usd=5"),
        ("/buffers/done/resume", {"budget": "a=1 a=2"}, "budget: 'a' is given twice"),
        ("/limits/none", {"rate": "1/s"}, "the app has no limit "),
        ("/limits/api", {"running": "many"}, "running: 'many' is no whole number"),
        ("/limits/api", {"rate": ["1/s", "2/s"]}, "rate is given 2 times"),
        ("/messages/none/respond", {"payload": "x"}, "no message 'none' in "),
        ("/prune", {"older_than": "old"}, "older_than: 'old' is no age such as 30d"),
    ],
)
def test_a_refusal_is_one_line(served: Path, path: str, fields: dict[str, Any], text: str) -> None:
    notice = said(served, path, **fields)
    assert isinstance(notice, Notice)
    assert notice.failed
    assert text in notice.text
    assert "\n" not in notice.text


def test_what_was_done_is_one_line(served: Path) -> None:
    for path, fields, text in [
        ("/buffers/done/cancel", {}, "done is complete"),
        ("/buffers/done/pause", {}, "done is complete"),
        ("/buffers/done/retry", {}, "done.retry1 has started"),
        ("/buffers/done/retry", {}, "done.retry1 was started before"),
        ("/limits/api", {"rate": "5/s"}, "api: 5/s, 3 at once, set by hand"),
        ("/limits/api", {"reset": "on"}, "api: 1000/s, 3 at once, as the app says"),
        ("/prune", {"older_than": "30d"}, "0 buffers pruned"),
    ]:
        assert said(served, path, **fields) == Notice(text, False)
