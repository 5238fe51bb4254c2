"""A handler that waits for its own bus would hold a worker that the answer may need: it is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from apps import plain, waiting

from durable_bus import Client
from durable_bus.errors import InsideHandler

REFUSED = "a handler must not open a Client on its own bus: return BufferStart(target, items) instead"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    journal = tmp_path_factory.mktemp("inside") / "journal.db"
    journal.with_name("link.db").symlink_to(journal)
    with waiting.bus.running(journal=journal, workers=1) as client:
        yield client


def answer(client: Client, target: str, path: Path) -> tuple[bool, str]:
    buffer = client.start(target, [str(path)])
    buffer.wait(60)
    (result,) = buffer.results()
    return result.success, result.payload if result.success else result.error or ""


@pytest.mark.parametrize("target", ["client", "running", "folder"])
def test_a_handler_cannot_wait_for_its_own_bus(client: Client, target: str) -> None:
    """The item fails at once, with an error that says what to do instead; nothing hangs."""
    success, error = answer(client, target, client.journal)
    assert not success
    assert error.lower() == f"exception: InsideHandler: {REFUSED}.".lower()


def test_another_name_of_the_same_journal_is_the_same_bus(client: Client) -> None:
    success, error = answer(client, "client", client.journal.with_name("link.db"))
    assert not success
    assert error.startswith("exception: InsideHandler")


def test_a_process_that_a_handler_starts_is_inside_it(client: Client) -> None:
    success, said = answer(client, "subprocess", client.journal)
    assert success
    assert said.startswith("durable_bus.errors.InsideHandler: ")


def test_another_journal_is_another_bus(client: Client, tmp_path: Path) -> None:
    assert answer(client, "running", tmp_path / "other.db") == (True, "1")


def test_who_is_no_handler_may_open_as_many_as_he_likes(client: Client, tmp_path: Path) -> None:
    with plain.bus.running(journal=tmp_path / "second.db", workers=1) as second:
        assert second.start("echo", ["x"]).wait(60).successful == 1
    assert issubclass(InsideHandler, Exception)
