"""The registry is a window on the journal: it counts what was recorded, and keeps no results of its own."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from durable_bus.journal.journal import Journal
from durable_bus.supervisor.outcomes.buffers import BufferRegistry, OpenBuffer


@pytest.fixture
def opened(journal: Path) -> Iterator[Journal]:
    with closing(Journal.open(journal)) as opened:
        with opened.commit(1):
            opened.start_run(1, "registry", "0")
        yield opened


def create(opened: Journal, registry: BufferRegistry, buffer_id: str, total: int) -> OpenBuffer:
    """A buffer with all its items, in a commit of its own."""
    with opened.commit(2):
        seq = opened.buffers.add(
            buffer_id=buffer_id,
            target="work",
            return_to="",
            from_id="cli",
            thread_id=f"t/{buffer_id}",
            starter_thread_id="t",
            collect=True,
            request_id=buffer_id,
            retry_of=None,
        )
        items = [f"item {index}".encode() for index in range(total)]
        assert opened.buffers.add_chunk(seq, 0, 0, items, 0, [])
        assert opened.buffers.open(seq, total, "digest")
        buffer = registry.create(opened.buffers.by_seq(seq))
    registry.buffers.commit()
    return buffer


def record(opened: Journal, buffer: OpenBuffer, index: int, payload: str, *, success: bool = True) -> bool:
    return opened.work.record_result(
        buffer_seq=buffer.seq, index=index, payload=payload, success=success, is_xml=False, attempt=1
    )


def test_a_buffer_is_created_counted_and_removed(opened: Journal) -> None:
    registry = BufferRegistry(opened)
    buffer = create(opened, registry, "b1", 3)
    assert registry.get(buffer.seq) == buffer
    assert (buffer.total_items, buffer.completed_count, buffer.successful_count) == (3, 0, 0)
    assert (buffer.pending_count, buffer.is_complete) == (3, False)
    with opened.commit(3):
        for index, success in ((2, True), (0, False)):
            assert record(opened, buffer, index, f"answer {index}", success=success)
            registry.record_result(buffer.seq, success=success)
        assert record(opened, buffer, 1, "answer 1")
        now = registry.record_results(buffer.seq, 1)
    assert now is not None
    assert (now.total_items, now.completed_count, now.successful_count) == (3, 3, 2)
    assert (now.pending_count, now.is_complete) == (0, True)
    assert [(result.index, result.success, result.payload) for result in now.get_ordered_results()] == [
        (0, False, "answer 0"),
        (1, True, "answer 1"),
        (2, True, "answer 2"),
    ]
    assert registry.remove(buffer.seq) == now
    assert registry.get(buffer.seq) is None
    assert registry.remove(buffer.seq) is None
    assert registry.record_result(buffer.seq, success=True) is None


def test_results_are_read_when_they_are_asked_for(opened: Journal) -> None:
    buffer = create(opened, BufferRegistry(opened), "b1", 3)
    before = buffer.get_ordered_results()
    with opened.commit(3):
        record(opened, buffer, 1, "late")
    assert [result.payload for result in before] == ["late"]
    assert [result.payload for result in buffer.get_ordered_results()] == ["late"]
    assert not any(isinstance(getattr(buffer, name), list) for name in buffer.__slots__)


def test_an_answer_that_comes_twice_is_recorded_once_and_counted_once(opened: Journal) -> None:
    registry = BufferRegistry(opened)
    buffer = create(opened, registry, "b1", 2)
    with opened.commit(3):
        for payload in ("first", "second"):
            recorded = record(opened, buffer, 0, payload)
            registry.record_results(buffer.seq, int(recorded))
    now = registry.get(buffer.seq)
    assert now is not None
    assert now.completed_count == 1
    assert [result.payload for result in now.get_ordered_results()] == ["first"]


def test_the_active_ones_are_listed_in_the_order_they_opened(opened: Journal) -> None:
    registry = BufferRegistry(opened)
    created = [create(opened, registry, name, 1) for name in ("b", "c", "a")]
    assert [buffer.buffer_id for buffer in registry.list_active()] == ["b", "c", "a"]
    registry.remove(created[1].seq)
    assert [buffer.buffer_id for buffer in registry.list_active()] == ["b", "a"]


def test_what_a_refused_commit_has_changed_is_forgotten(opened: Journal) -> None:
    registry = BufferRegistry(opened)
    buffer = create(opened, registry, "b1", 2)
    registry.record_result(buffer.seq, success=True)
    registry.remove(buffer.seq)
    registry.buffers.rollback()
    assert registry.get(buffer.seq) == buffer
