"""Fixtures of the tests of the journal."""

from contextlib import closing
from pathlib import Path

import pytest

from durable_bus.journal.connection import open_writer
from durable_bus.journal.schema import migrate


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of this version without a row, for tests that only read."""
    path = tmp_path_factory.mktemp("empty") / "journal.db"
    with closing(open_writer(path)) as connection:
        migrate(connection)
    return path
