"""`durable_bus.map`: each value once, whatever has stopped the call before."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from apps import mapping
from maps import Source, mapped
from services import Service
from streams_seen import is_clean
from support import (
    Facts,
    RunLog,
)

from durable_bus import BufferError, ItemFailed
from durable_bus import map as durable_map
from durable_bus.app.finding import function_spec
from durable_bus.client.client import Client
from durable_bus.client.embedded import open_client
from durable_bus.client.stream import AHEAD
from durable_bus.errors import (
    InsideHandler,
    JournalLocked,
    LimitExceeded,
    OtherItems,
    UsageError,
)
from durable_bus.payloads.settings import MappedSettings

READ_MAX = AHEAD


def mapped_raises(journal: Path, items: Any, **options: Any) -> str:
    with pytest.raises(BufferError) as refused:
        mapped(journal, items, mapping.gate, **options)
    return str(refused.value)


def serving(journal: Path, function: Any) -> Client:
    """A client of a supervisor that serves the function, as `map` has one."""
    name = function.__name__
    return open_client(function_spec(function, MappedSettings(name, None, 1)), name, journal, 2)


def left_open(client: Client, target: str, items: list[int]) -> None:
    """A stream "b" that has these items, and was left without an end."""
    with pytest.raises(ZeroDivisionError), client.stream(target, buffer_id="b") as stream:
        for item in items:
            stream.put(item)
        raise ZeroDivisionError


# What is given again


def test_the_same_call_again_runs_nothing_and_gives_the_same(journal: Path, run_log: RunLog) -> None:
    squares = [number * number for number in range(300)]
    assert mapped(journal, range(300)) == squares
    assert sorted(run_log.indexes()) == list(range(300))
    assert mapped(journal, iter(range(300))) == squares
    assert sorted(mapped(journal, range(300), ordered=False)) == squares
    assert len(run_log.runs()) == 300


@pytest.mark.slow
def test_another_function_or_other_first_items_are_another_buffer(journal: Path, facts: Facts) -> None:
    mapped(journal, [1, 2])
    mapped(journal, [1, 3])
    mapped(journal, [1, 2], mapping.same)
    assert facts.value("SELECT count(*) FROM buffers") == 3
    assert facts.value("SELECT count(*) FROM buffers WHERE buffer_id LIKE 'square-%'") == 2


@pytest.mark.slow
def test_another_item_is_refused_and_named(journal: Path, run_log: RunLog) -> None:
    mapped(journal, range(1000))
    ran = len(run_log.runs())
    for index in (256, 700, 999):
        items = [*range(index), -1, *range(index + 1, 1000)]
        with pytest.raises(OtherItems, match=f"item {index} was the json '{index}', and is the json '-1'"):
            mapped(journal, items)
    assert len(run_log.runs()) == ran


@pytest.mark.slow
def test_what_was_given_before_the_other_item_is_given_again(journal: Path) -> None:
    mapped(journal, [1, 2, 3], buffer_id="b")

    def some() -> Iterator[int]:
        yield from (1, 2)
        yield 4

    values = durable_map(mapping.square, some(), journal=journal, buffer_id="b")
    with pytest.raises(OtherItems, match="item 2"):
        list(values)


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 1])
def test_fewer_and_more_items_are_refused(journal: Path, first: int) -> None:
    mapped(journal, range(5), buffer_id="b")
    with pytest.raises(OtherItems, match=f"5 of them are recorded, and {first} are given"):
        mapped(journal, range(first), buffer_id="b")
    with pytest.raises(OtherItems, match="there are 5 of them, and more are given"):
        mapped(journal, range(6), buffer_id="b")
    assert mapped(journal, range(5), buffer_id="b") == [0, 1, 4, 9, 16]


def test_no_items_give_nothing_and_write_nothing(journal: Path) -> None:
    assert mapped(journal, []) == []
    assert mapped(journal, iter(()), buffer_id="b") == []
    assert not journal.exists()


@pytest.mark.slow
def test_a_cancelled_and_a_pruned_buffer_are_refused(journal: Path, door: Path, run_log: RunLog) -> None:
    with serving(journal, mapping.gate) as client:
        left_open(client, "gate", [1, 1000])
        run_log.until_started(1000)
        assert client.cancel("b") == "cancelled"
        door.touch()
        with client.stream("gate", buffer_id="c") as stream:
            stream.put(1)
    assert mapped(journal, [1], mapping.gate, buffer_id="c") == [1]
    with serving(journal, mapping.gate) as client:
        with pytest.raises(BufferError, match="it was cancelled"):
            client.stream("gate", buffer_id="b")
        assert mapped_raises(journal, [1, 1000], buffer_id="b") == "buffer b: it was cancelled"
        assert client.prune(2**52) == 2
    for buffer_id in ("b", "c"):
        why = f"buffer {buffer_id}: its items and results were pruned, and its id stays used"
        assert mapped_raises(journal, [1], buffer_id=buffer_id) == why


@pytest.mark.slow
def test_an_id_of_another_target_is_refused(journal: Path) -> None:
    mapped(journal, [1], buffer_id="b")
    with pytest.raises(BufferError, match="with other target"):
        mapped(journal, [1], mapping.same, buffer_id="b")


# Failures


@pytest.mark.slow
def test_a_failed_item_is_raised_at_its_turn_and_again(journal: Path, run_log: RunLog) -> None:
    for _ in range(2):
        values = durable_map(mapping.odd_only, [1, 3, 4, 5], journal=journal, workers=1)
        assert [next(values), next(values)] == [1, 3]
        with pytest.raises(ItemFailed) as failed:
            next(values)
        assert (failed.value.index, failed.value.kind) == (2, "exception")
        assert failed.value.message == "ValueError: 4 is even"
        assert 'raise ValueError(f"{number} is even")' in failed.value.traceback
        assert str(failed.value) == "item 2 failed: exception: ValueError: 4 is even"
        with pytest.raises(StopIteration):
            next(values)
    one, three, failure, five = mapped(journal, [1, 3, 4, 5], mapping.odd_only, return_exceptions=True)
    assert (one, three, five) == (1, 3, 5)
    assert isinstance(failure, ItemFailed)
    assert sorted(run_log.indexes()) == [1, 3, 4, 5]


@pytest.mark.slow
def test_what_an_item_can_fail_of(journal: Path) -> None:
    def failure(function: Any, item: Any, **options: Any) -> tuple[str, str, bool]:
        (failed,) = mapped(journal, [item], function, return_exceptions=True, **options)
        assert isinstance(failed, ItemFailed)
        assert failed.index == 0
        return failed.kind, failed.message, bool(failed.traceback)

    kind, message, has_traceback = failure(mapping.without_pickle, 1)
    assert (kind, has_traceback) == ("answer", False)
    assert "Can't" in message
    too_long = "the answer cannot be written: 8388609 bytes, more than 8388608"
    assert failure(mapping.too_long, 1) == ("answer", too_long, False)
    assert failure(mapping.sleeping, 60.0, timeout=0.1) == ("timeout", "no answer within 0.1 s", False)
    assert failure(mapping.dying, 3) == ("lost", "worker exited with code 3", False)


@pytest.mark.slow
def test_an_item_is_tried_as_often_as_is_said(journal: Path, run_log: RunLog, facts: Facts) -> None:
    assert mapped(journal, [5], mapping.third_time, attempts=3) == [5]
    assert run_log.indexes() == [5, 5, 5]
    assert facts.value("SELECT count(*) FROM failures") == 2


@pytest.mark.parametrize("at", [0, 3, 300])
def test_an_item_that_cannot_be_pickled_is_named(journal: Path, at: int) -> None:
    items: list[Any] = [0] * at + [lambda: 1] + [0] * 5
    if at < 256:
        with pytest.raises(UsageError, match=f"item {at}: function cannot be pickled: .*lambda"):
            mapped(journal, items)
        assert not journal.exists()
    else:
        with pytest.raises(UsageError, match=f"item {at}: function cannot be pickled: .*lambda"):
            mapped(journal, items, mapping.same)


@pytest.mark.slow
def test_an_item_that_is_too_long_is_named(journal: Path) -> None:
    for items in (["a", "x" * 8_388_609], [1, b"x" * 8_388_609], [1, "x" * 8_388_609]):
        with pytest.raises(LimitExceeded, match=r"item 1: .* bytes, more than 8388608"):
            mapped(journal, items, mapping.same)


@pytest.mark.parametrize(
    ("items", "options"),
    [
        (7, {}),
        ([1], {"workers": 0}),
        ([1], {"workers": True}),
        ([1], {"timeout": -1}),
        ([1], {"attempts": 0}),
        ([1], {"buffer_id": ""}),
        ([1], {"buffer_id": "a b"}),
    ],
    ids=repr,
)
def test_what_cannot_be_is_refused_before_the_first_value_is_asked_for(
    journal: Path, items: Any, options: dict[str, Any]
) -> None:
    with pytest.raises((UsageError, BufferError)):
        durable_map(mapping.square, items, journal=journal, **options)
    assert not journal.exists()


def test_a_generator_function_is_refused(journal: Path) -> None:
    with pytest.raises(Exception, match="it does not yield"):
        mapped(journal, [1], mapping.numbers)


# Order


@pytest.mark.slow
def test_values_come_in_the_order_of_items_or_of_recording(
    journal: Path, door: Path, run_log: RunLog
) -> None:
    items = [1, 1000, 2, 3]
    options: dict[str, Any] = {"journal": journal, "workers": 2}
    unordered = durable_map(mapping.gate, items, ordered=False, buffer_id="b", **options)
    assert sorted(next(unordered) for _ in range(3)) == [1, 2, 3]
    door.touch()
    assert list(unordered) == [1000]
    door.unlink()
    ordered = durable_map(mapping.gate, items, buffer_id="c", **options)
    assert next(ordered) == 1
    door.touch()
    assert list(ordered) == [1000, 2, 3]


@pytest.mark.slow
def test_what_waits_for_its_turn_is_given_however_much_it_is(journal: Path, door: Path, facts: Facts) -> None:
    """The buffer has ended long before, and what was recorded needs many reads."""
    values = durable_map(mapping.long_or_gate, range(12), journal=journal, workers=2, buffer_id="b")
    assert next(values)[0] == "0"
    facts.until_recorded("b", 11)
    door.touch()
    facts.until("SELECT state = 'complete' FROM buffers")
    assert [value[:1] for value in values] == [*"123456789", "1", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [True, False])
def test_values_that_are_recorded_while_others_are_given_again_come_once(
    journal: Path, facts: Facts, ordered: bool
) -> None:
    with serving(journal, mapping.square) as client:
        left_open(client, "square", [0, 1, 2])
        facts.until_recorded("b", 3)
    values = durable_map(mapping.square, range(8), journal=journal, workers=1, buffer_id="b", ordered=ordered)
    got = [next(values)]
    facts.until_recorded("b", 8)
    got += values
    assert (got if ordered else sorted(got)) == [number * number for number in range(8)]


# How much is read


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [True, False])
def test_no_more_is_read_than_is_needed(journal: Path, ordered: bool) -> None:
    source = Source()
    values = durable_map(mapping.same, source, journal=journal, workers=2, ordered=ordered)
    assert source.read == 0, "nothing is done before the first value is asked for"
    for given in range(25_000):
        next(values)
        assert source.read <= given + READ_MAX + 1
    values.close()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_when_all_that_may_be_is_read_the_next_ones_are_read_together(journal: Path) -> None:
    """Each few that are read are a chunk, and a chunk is a commit."""

    def source() -> Iterator[int]:
        for number in range(READ_MAX + 2_500):
            read_at.append(given)
            yield number

    read_at: list[int] = []
    given = 0
    for given, _ in enumerate(durable_map(mapping.nap, source(), journal=journal, workers=4), 1):  # noqa: B007
        pass
    full_at = [read for read in range(1, len(read_at)) if read - read_at[read - 1] == READ_MAX]
    rooms = [read_at[read] + READ_MAX - read for read in full_at]
    assert len(rooms) > 1
    assert min(rooms) >= 500


@pytest.mark.slow
def test_an_item_that_is_slow_holds_back_the_reading(journal: Path, door: Path, facts: Facts) -> None:
    def source() -> Iterator[int]:
        for number in range(2 * READ_MAX):
            read.append(number)
            yield number % 1000 if number != 1 else 1000

    read: list[int] = []
    values = durable_map(mapping.gate, source(), journal=journal, workers=2, buffer_id="b")
    assert next(values) == 0
    facts.until_recorded("b", READ_MAX - 1)
    threading.Timer(0, door.touch).start()
    assert next(values) == 1000
    assert len(read) <= READ_MAX + 2
    assert sum(1 for _ in values) == 2 * READ_MAX - 2
    assert len(read) == 2 * READ_MAX


@pytest.mark.slow
def test_recorded_items_are_not_read_ahead_either(journal: Path) -> None:
    mapped(journal, range(30_000), mapping.same)
    source = Source(30_000)
    values = durable_map(mapping.same, source, journal=journal)
    for given in range(30_000):
        assert next(values) == given
        assert source.read <= given + READ_MAX + 1
    assert list(values) == []


# The source


@pytest.mark.slow
def test_a_source_that_raises_is_mended_and_gone_on_with(
    journal: Path, run_log: RunLog, facts: Facts
) -> None:
    def source(end: int) -> Iterator[int]:
        for number in range(600):
            if number == end:
                raise OSError("the source is broken")
            yield number

    for end in (1, 100, 300, 599):
        with pytest.raises(OSError, match="the source is broken"):
            mapped(journal, source(end), buffer_id="b")
    assert facts.value("SELECT sealed_at IS NULL FROM buffers")
    assert mapped(journal, source(-1), buffer_id="b") == [number * number for number in range(600)]
    assert sorted(run_log.indexes()) == list(range(600))
    assert is_clean(journal)


@pytest.mark.slow
def test_a_cursor_of_the_callers_thread_may_be_the_source(journal: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "source.db")) as connection:
        connection.execute("CREATE TABLE t (n INTEGER)")
        connection.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(20_000)])
        rows = connection.execute("SELECT n, 'x' FROM t ORDER BY n")
        assert mapped(journal, rows, mapping.same) == [(number, "x") for number in range(20_000)]


# Who else is there


@pytest.mark.slow
def test_a_journal_that_somebody_serves_is_locked(journal: Path) -> None:
    with Service(journal, workers=1) as service:
        with pytest.raises(JournalLocked, match=str(service.pid)):
            mapped(journal, [1])
    assert mapped(journal, [1]) == [1]
    with Service(journal, workers=1):
        assert mapped(journal, [1]) == [1], "what is recorded needs no supervisor"


@pytest.mark.slow
def test_a_function_that_maps_into_its_own_journal_is_refused(journal: Path, tmp_path: Path) -> None:
    (failed,) = mapped(journal, [str(journal)], mapping.nested, return_exceptions=True)
    assert failed.message.startswith(InsideHandler.__name__)
    assert mapped(journal, [str(tmp_path / "other.db")], mapping.nested) == [[1, 4]]
