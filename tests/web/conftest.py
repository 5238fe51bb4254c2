"""Fixtures of the tests of the console."""

from collections.abc import Iterator

import eventful
import pytest
from consoles import Console


@pytest.fixture(scope="module")
def console(story: eventful.Story) -> Iterator[Console]:
    """On a journal that nobody serves, for tests that change nothing."""
    with Console(story.journal) as console:
        yield console.enter()
