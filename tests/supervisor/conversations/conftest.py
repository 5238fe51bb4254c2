"""A conversation for each test, of which nothing may be left."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from talks import Talk


@pytest.fixture
def talk(journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Talk]:
    with closing(Talk(journal, tmp_path, monkeypatch)) as talk:
        yield talk
        talk.assert_nothing_left()
