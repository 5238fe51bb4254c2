"""Fixtures of the tests of named clients."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import Daemon
from mail import APP


@pytest.fixture
def daemon(journal: Path) -> Iterator[Daemon]:
    with Daemon(journal, APP) as daemon:
        daemon.until_listening()
        yield daemon


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for tests that ask the same of it again and again, each under another name."""
    with Daemon(tmp_path_factory.mktemp("shared") / "journal.db", APP) as daemon:
        daemon.until_listening()
        yield daemon
