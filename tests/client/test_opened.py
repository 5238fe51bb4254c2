"""`durable_bus.open`: a journal read by itself, while or after somebody serves it."""

from pathlib import Path

import pytest
from apps import any_value

import durable_bus
from durable_bus import Xml
from durable_bus.errors import JournalUnreachable, NotAJournal, NotFound


def test_an_item_that_is_malformed_is_its_text_and_stops_nothing(journal: Path) -> None:
    """As in `Buffer.results`."""
    with any_value.bus.running(journal, workers=1) as client:
        buffer = client.start("echo", [Xml("<a>"), {"a": 1}, "text"], buffer_id="b")
        buffer.wait(60)
        of_buffer = [result.item for result in buffer.results(with_items=True)]
    with durable_bus.open(journal) as opened:
        assert [result.item for result in opened.results("b", with_items=True)] == of_buffer
    assert of_buffer == ["<a>", {"a": 1}, "text"]


def test_buffers_results_and_failures_are_read(journal: Path) -> None:
    with any_value.bus.running(journal, workers=1) as client:
        for number in range(3):
            client.start("shape", [{"fail": "no"}, {"answer": number}], buffer_id=f"b{number}").wait(60)
    with durable_bus.open(journal) as opened:
        assert [(one.buffer_id, one.state, one.failed) for one in opened.buffers()] == [
            (f"b{number}", "complete", 1) for number in range(3)
        ]
        assert [result.success for result in opened.results("b2")] == [False, True]
        (failure,) = opened.failures("b1")
        assert (failure.index, failure.attempt, failure.kind) == (0, 1, "exception")
        assert failure.message == "ValueError: no"
        assert failure.traceback is not None
        with pytest.raises(NotFound):
            opened.results("nobody")
        with pytest.raises(NotFound):
            opened.failures("nobody")


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises((NotFound, JournalUnreachable)):
        durable_bus.open(tmp_path / "absent.db")
    (tmp_path / "other").write_text("no journal")
    with pytest.raises(NotAJournal):
        durable_bus.open(tmp_path / "other")
