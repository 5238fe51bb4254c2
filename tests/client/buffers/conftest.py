"""One client, with a supervisor of its own, for all tests of a file."""

from collections.abc import Iterator

import pytest
from apps import plain
from support import Facts

from durable_bus.client.client import Client


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with plain.bus.running(journal=tmp_path_factory.mktemp("client") / "journal.db", workers=2) as client:
        yield client


@pytest.fixture
def facts(client: Client) -> Facts:
    return Facts(client.journal)
