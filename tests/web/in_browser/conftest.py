"""A browser, and a console on a journal with everything in it that a daemon serves."""

from collections.abc import Iterator

import everything
import pytest
from browser import Browser, browsing, need_browser
from consoles import Console
from everything import Everything
from support import Facts

from durable_bus.client.client import Client

pytest.register_assert_rewrite("acting")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "in_browser" in item.path.parts:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def alive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    need_browser()
    with everything.served(tmp_path_factory.mktemp("alive")) as story:
        yield story


@pytest.fixture(scope="session")
def web(alive: Everything) -> Iterator[Console]:
    with Console(alive.journal) as console:
        yield console.enter()


@pytest.fixture(scope="session")
def any_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(any_browser: Browser, web: Console) -> Browser:
    """Let in, on whatever page the last test has left it; nothing is said of it yet."""
    any_browser.wide(1200)
    any_browser.dark(False)
    any_browser.enter_once(web)
    return any_browser


@pytest.fixture
def client(alive: Everything) -> Iterator[Client]:
    with Client(alive.journal) as client:
        yield client


@pytest.fixture
def rows(alive: Everything) -> Facts:
    return alive.facts


@pytest.fixture(scope="session")
def addresses(alive: Everything) -> list[str]:
    """Of every kind of page, now and in the past."""
    facts = alive.facts
    (question,) = facts.rows("SELECT message_id FROM messages WHERE to_id = 'person' AND state = 'waiting'")[
        0
    ]
    buffers = (
        "failing",
        "held",
        "paused",
        "stream",
        "questions",
        "stopped",
        "old",
        "early",
        everything.LONG_ID,
    )
    items = ("failing/items/1", "passing/items/0", "deadly/items/1", "forms/items/0", "held/items/0")
    now = [
        *("/", "/buffers", "/workers", "/messages", "/questions", "/time", "/nothing"),
        *("/buffers?failures=1&state=complete", "/buffers?part=nobody", "/questions?name=failed-items"),
        *("/questions?sql=SELECT+1+AS+one", "/questions?sql=SELECT"),
        *(f"/buffers/{name}" for name in buffers),
        *(f"/buffers/{name}" for name in items),
        f"/messages/{question}",
    ]
    commits = [*alive.copies][2::5]
    then = [
        f"{path}?at={commit}"
        for path in ("/", "/buffers", "/workers", "/messages", "/time")
        for commit in commits
    ]
    return [
        *now,
        *then,
        f"/buffers/held?at={facts.value('SELECT max(commit_id) FROM journal_commit WHERE run_id = 1')}",
    ]
