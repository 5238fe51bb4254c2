"""Some of the failed and missing items of a buffer are started again, as a buffer of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from services import Service

from durable_bus.client.buffer_ids import next_retry_id, retry_id_of_some
from durable_bus.client.client import Client
from durable_bus.errors import BufferError, NotFound
from durable_bus.journal.admin.check import check

ITEMS = ["a", "ok 1", "b", "c", "ok 2", "d"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    journal = tmp_path_factory.mktemp("retrying") / "journal.db"
    with Service(journal, "apps.browsing:bus", workers=1) as service, service.client() as client:
        client.start("fail", ITEMS, buffer_id="first").wait(60)
        yield client
    assert [finding for finding in check(journal).checks if not finding.ok] == []


def payloads(client: Client, buffer_id: str) -> list[str]:
    reader = client.reader()
    return [text for text, _ in reader.item_payloads(reader.buffer_seq(buffer_id))]


def test_only_these_items_start_again_and_once(client: Client) -> None:
    again = client.retry("first", indexes=[5, 0, 3, 3])
    assert again.buffer_id.startswith("first.retry-")
    assert len(again.buffer_id) == len("first.retry-") + 8
    assert payloads(client, again.buffer_id) == ["a", "c", "d"]
    assert not again.existed
    same = client.retry("first", indexes=iter([0, 3, 5]))
    assert (same.buffer_id, same.existed) == (again.buffer_id, True)
    other = client.retry("first", indexes=[2])
    assert other.buffer_id != again.buffer_id
    again.wait(60)
    row = client.reader().buffer(again.buffer_id)
    assert row["retry_of"] == "first"
    further = client.retry(again.buffer_id)
    assert further.buffer_id == f"{again.buffer_id}.retry1"
    assert client.retry("first").buffer_id == "first.retry1"
    assert payloads(client, "first.retry1") == ["a", "b", "c", "d"]
    for buffer in (other, further, client.buffer("first.retry1")):
        buffer.wait(60)


@pytest.mark.parametrize(
    ("indexes", "why"),
    [
        ([], "no items are said"),
        ([0, 1], "of these 2 items only 1 have failed or are missing"),
        ([99], "of these 1 items only 0 have failed or are missing"),
        ([-1, 0], "of these 2 items only 1 have"),
    ],
)
def test_what_is_not_to_be_started_again_is_refused_and_nothing_starts(
    client: Client, indexes: list[int], why: str
) -> None:
    before = len(list(client.reader().buffers()))
    with pytest.raises(BufferError, match=why):
        client.retry("first", indexes=indexes)
    assert len(list(client.reader().buffers())) == before


def test_a_buffer_that_is_not_there_or_has_not_ended_is_refused(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        client.retry("none", indexes=[0])
    buffer = client.start("gate", [str(tmp_path / "door")], buffer_id="runs")
    with pytest.raises(BufferError, match="has not ended"):
        client.retry("runs", indexes=[0])
    (tmp_path / "door").touch()
    buffer.wait(60)


def test_the_id_is_of_the_items_and_never_too_long(client: Client) -> None:
    content = client.reader().content("first")
    assert content is not None
    assert retry_id_of_some(content, {1, 2}) == retry_id_of_some(content, [2, 1])
    assert retry_id_of_some(content, {1, 2}) != retry_id_of_some(content, {12})
    for length in (86, 87, 88, 99, 100):
        long = content._replace(buffer_id="x" * length)
        name = retry_id_of_some(long, {1})
        assert len(name) <= 100
        assert (name.startswith("x" * length)) is (length <= 85)
        assert len(next_retry_id(long._replace(buffer_id=name, is_retry=True))) <= 100
    others = {retry_id_of_some(content._replace(buffer_id="x" * 95 + end), {1}) for end in "ab"}
    assert len(others) == 2
