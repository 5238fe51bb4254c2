"""What a client is told of its buffers: counts, results as they come, the end."""

import gc
import threading
from itertools import islice
from pathlib import Path

import pytest
from apps import plain
from support import Facts

from durable_bus import Result
from durable_bus.client.client import Client
from durable_bus.client.embedded import running
from durable_bus.errors import NotFound, TimedOut, UsageError


def test_wait_says_how_many_succeeded_and_reads_results_only_when_asked(client: Client) -> None:
    complete = client.start("echo", ["a", "<b/>"], buffer_id="wait").wait(60)
    assert (complete.buffer_id, complete.total, complete.successful) == ("wait", 2, 2)
    assert "results" not in vars(complete)
    assert complete.results == (
        '<results><item index="0" success="true">a</item><item index="1" success="true"><b/></item></results>'
    )
    assert complete == client.buffer("wait").wait(60)


def test_results_are_in_item_order_and_whole_results(client: Client) -> None:
    buffer = client.start("echo", (f"item {index}" for index in range(12_000)))
    buffer.wait(60)
    results = list(buffer.results())
    assert [(result.index, result.payload) for result in results] == [(i, f"item {i}") for i in range(12_000)]
    first = results[0]
    assert isinstance(first, Result)
    assert (first.success, first.is_xml, first.error, first.attempt) == (True, False, None, 1)
    assert all(result.duration_ms > 0 for result in results)


def test_as_completed_gives_each_result_once_while_others_still_run(client: Client, tmp_path: Path) -> None:
    door = tmp_path / "door"
    buffer = client.start("gate", [str(door), *[""] * 50])
    arriving = buffer.as_completed(60)
    early = list(islice(arriving, 50))
    assert 0 not in {result.index for result in early}
    assert buffer.status().pending == 1
    door.touch()
    assert [result.index for result in arriving] == [0]
    assert sorted(result.index for result in buffer.as_completed(60)) == list(range(51))


@pytest.mark.slow
def test_as_completed_ends_with_the_buffer_however_close_its_last_result_comes(client: Client) -> None:
    for _ in range(100):
        assert len(list(client.start("echo", ["a"]).as_completed(60))) == 1


def test_a_buffer_can_be_followed_by_many_at_once_any_number_of_times(client: Client) -> None:
    buffer = client.start("sleep", ["0.001"] * 300)
    seen: list[int] = []

    def follow() -> None:
        other = client.buffer(buffer.buffer_id)
        seen.append(sum(1 for _ in other.as_completed(60)))
        seen.append(other.wait(60).total)
        seen.append(sum(1 for _ in other.results()))

    threads = [threading.Thread(target=follow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [300] * 12


def test_status_counts_while_it_runs_and_after(client: Client, facts: Facts, tmp_path: Path) -> None:
    door = tmp_path / "door"
    buffer = client.start("gate", ["", str(door), ""], buffer_id="status")
    facts.until_recorded("status", 2)
    status = buffer.status()
    assert (status.state, status.total, status.completed, status.pending) == ("open", 3, 2, 1)
    door.touch()
    buffer.wait(60)
    status = buffer.status()
    assert (status.state, status.successful, status.failed, status.pending) == ("complete", 3, 0, 0)


def test_results_of_an_open_buffer_are_those_recorded_so_far(client: Client, tmp_path: Path) -> None:
    door = tmp_path / "door"
    buffer = client.start("gate", [str(door), ""])
    Facts(client.journal).until_recorded(buffer.buffer_id, 1)
    assert [result.index for result in buffer.results()] == [1]
    door.touch()
    buffer.wait(60)


def test_results_can_be_read_on_after_the_client_was_closed(journal: Path) -> None:
    """Following needs only the journal."""
    with running(plain.bus, journal=journal, workers=1) as client:
        buffer = client.start("echo", map(str, range(10_000)))
        buffer.wait(60)
        unread, half_read = buffer.results(), buffer.results()
        first = [result.payload for result in islice(half_read, 5_000)]
    whole = [str(index) for index in range(10_000)]
    assert [*first, *(result.payload for result in half_read)] == whole
    assert [result.payload for result in unread] == whole
    client.close()


@pytest.mark.slow
def test_what_is_read_after_the_end_leaves_nothing_open_when_the_client_is_forgotten(journal: Path) -> None:
    with running(plain.bus, journal=journal, workers=1) as client:
        complete = client.start("echo", ["a"], buffer_id="b").wait(60)
    assert complete.results  # read now
    reader = client.reader()
    assert not reader.closed
    del client, complete
    gc.collect()
    assert reader.closed


def test_waiting_times_out_and_what_it_waited_for_goes_on(client: Client, tmp_path: Path) -> None:
    door = tmp_path / "door"
    buffer = client.start("gate", [str(door)])
    with pytest.raises(TimedOut) as late:
        buffer.wait(0.05)
    assert late.value.exit_code == 6
    with pytest.raises(TimedOut):
        list(buffer.as_completed(0.05))
    door.touch()
    assert buffer.wait(60).successful == 1


@pytest.mark.parametrize("timeout", [1e12, float("inf")])
def test_waiting_may_take_all_the_time_there_is(client: Client, tmp_path: Path, timeout: float) -> None:
    door = tmp_path / "door"
    buffer = client.start("gate", [str(door), ""])
    arriving = buffer.as_completed(timeout)
    assert next(arriving).index == 1
    door.touch()
    assert buffer.wait(timeout).successful == 2
    assert [result.index for result in arriving] == [0]


def test_waiting_for_a_time_that_is_no_number_is_refused(client: Client) -> None:
    buffer = client.start("echo", ["a"])
    for waiting in (buffer.wait, lambda timeout: list(buffer.as_completed(timeout))):
        with pytest.raises(UsageError, match="timeout=nan is no number of seconds"):
            waiting(float("nan"))


def test_a_buffer_nobody_started_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound) as missing:
        client.buffer("nobody")
    assert missing.value.exit_code == 3


def test_a_buffer_without_collect_has_results_and_sends_no_completion(client: Client, facts: Facts) -> None:
    buffer = client.start("echo", ["a"], buffer_id="quiet", collect=False)
    assert buffer.wait(60).successful == 1
    assert [result.payload for result in buffer.results()] == ["a"]
    assert facts.value("SELECT count(*) FROM messages WHERE message_id = 'quiet/complete'") == 0
