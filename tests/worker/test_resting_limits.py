"""After a RetryAfter a worker returns what it holds of the limit and has not begun, and nothing else."""

from pathlib import Path

import pytest
from worker_process import WorkerProcess

from durable_bus.payloads.settings import LimitSettings

GOOD: list[list[object]] = []
LONG = [["after", 3600, "api"]]


def test_a_worker_reports_the_limits_of_its_app(worker: WorkerProcess) -> None:
    assert worker.ready is not None
    assert worker.ready.limits == {
        "api": LimitSettings("api", "1000/s", 50, True),
        "disk": LimitSettings("disk", None, 5, False),
    }
    assert worker.ready.listeners["ask"].limits == ("api", "disk")


def test_what_has_not_begun_of_the_frame_goes_back_and_is_not_said_to_be_started(
    worker: WorkerProcess,
) -> None:
    worker.give("ask", GOOD, [["after", 30.5, "api", "429 of them"]], GOOD, GOOD)
    worker.until_done(4)
    assert worker.texts == {(1, 0): "done"}
    (failed,) = worker.failed
    assert (failed.index, failed.kind, failed.after_s, failed.limit) == (1, "retry_after", 30.5, "api")
    assert (failed.message, failed.traceback) == ("30.5 s, limit api: 429 of them", "")
    assert worker.discarded == [(2, 4)]
    assert worker.slot.started == 2


def test_the_failure_is_told_before_what_is_thrown_away(worker: WorkerProcess) -> None:
    """Else what comes back would go out again at once."""
    worker.give("ask", LONG, GOOD)
    worker.until_done(2)
    told = [(bool(frame.failed), frame.discarded) for frame in worker.frames if frame != type(frame)()]
    assert told in ([(True, (1, 2))], [(True, None), (False, (1, 2))])


def test_frames_go_back_whole_while_the_limit_rests_and_others_run(worker: WorkerProcess) -> None:
    """All are in the pipe at once. Each is said by itself: between two that are thrown away one has run."""
    worker.give("ask", LONG, GOOD)
    worker.give("free", GOOD, GOOD)
    worker.give("ask", GOOD, GOOD)
    worker.give("store", GOOD)
    worker.give("bare", "a")
    worker.give("free", GOOD)
    worker.until_done(9)
    assert worker.discarded == [(1, 2), (4, 6), (7, 8)]
    assert {*worker.texts} == {(2, 0), (2, 1), (4, 0), (6, 0)}
    assert worker.slot.started == 9


def test_a_handler_without_metadata_rests_its_limit_too(worker: WorkerProcess) -> None:
    worker.give("bare", "a", "after", "b")
    worker.give("ask", GOOD)
    worker.until_done(4)
    assert worker.discarded == [(2, 3), (3, 4)]
    assert worker.texts == {(1, 0): "a"}


def test_work_goes_on_when_the_rest_is_over(worker: WorkerProcess) -> None:
    worker.give("ask", [["after", 0.05, "api"]])
    worker.until(lambda: worker.failed, "the limit rests")
    given = 1
    while not worker.texts:
        worker.give("ask", GOOD)
        given += 1
        worker.until_done(given)
        assert given < 1000, "it was forgotten, not over"


def test_a_shorter_rest_ends_no_longer_one(worker: WorkerProcess) -> None:
    worker.give("ask", LONG)
    worker.give("free", [["after", 0, "api"]], GOOD)
    worker.give("ask", GOOD)
    worker.until_done(4)
    assert worker.discarded == [(3, 4)]
    assert [(one.kind, one.after_s) for one in worker.failed] == [("retry_after", 3600), ("retry_after", 0)]


def test_without_a_limit_the_item_alone_comes_back(worker: WorkerProcess) -> None:
    worker.give("ask", [["after", 3600]], GOOD)
    worker.give("ask", GOOD)
    worker.until_done(3)
    assert worker.discarded == []
    assert [(one.kind, one.after_s, one.limit) for one in worker.failed] == [("retry_after", 3600, "")]


def test_after_a_thousand_frames_a_supervisor_that_goes_on_sending_knows_better(
    worker: WorkerProcess,
) -> None:
    """In newer code the listener has no such limit, say. They would pass the same items to and fro."""
    worker.give("ask", LONG)
    for _ in range(1001):
        worker.give("ask", GOOD)
    worker.until_done(1002)
    assert len(worker.discarded) == 1000
    assert {*worker.texts} == {(1002, 0)}


def test_a_subclass_counts(worker: WorkerProcess) -> None:
    worker.give("ask", [["busy", 3600, "disk", "later"]], GOOD)
    worker.give("store", GOOD)
    worker.give("bare", "a")
    worker.until_done(4)
    assert worker.failed[0].message == "3600 s, limit disk: later"
    assert worker.discarded == [(1, 2), (2, 3)]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (["after", 1, "nobody"], "no limit is called 'nobody'; there are api, disk"),
        (["after", 1, 7], "no limit is called 7; there are api, disk"),
        (["after", 1, ["api"]], "no limit is called ['api']; there are api, disk"),
        (["after", -1, "api"], "RetryAfter(-1) is not a number of seconds"),
        (["silent"], "its class must call RetryAfter.__init__"),
    ],
    ids=["unknown", "a number", "a list", "no seconds", "silent"],
)
def test_one_that_cannot_be_is_an_exception_like_any_other(
    worker: WorkerProcess, step: list[object], message: str
) -> None:
    worker.give("ask", [step], GOOD)
    worker.until_done(2)
    (failed,) = worker.failed
    assert (failed.kind, failed.after_s, failed.limit) == ("exception", None, "")
    assert message in failed.message
    assert failed.traceback
    assert worker.discarded == []


def test_messages_come_back_too(worker: WorkerProcess) -> None:
    worker.tell("ask", LONG)
    worker.tell("ask", GOOD)
    worker.tell("free", GOOD)
    worker.until_done(3)
    (failed,) = worker.failed
    assert (failed.dispatch, failed.index, failed.kind, failed.after_s) == (-1, 0, "retry_after", 3600)
    assert worker.discarded == [(1, 2)]
    assert worker.outcomes == 1


def test_a_batch_that_waits_for_room_goes_back_at_once(journal: Path) -> None:
    """Two run at once; one of them still does when the other one says that its limit rests."""
    door = journal.parent / "door"
    with WorkerProcess("apps.pacing_async:bus", journal) as worker:
        worker.give("pool", [["gate", str(door)]], LONG, GOOD)
        worker.give("pool", GOOD)
        worker.until_done(3)
        assert worker.discarded == [(2, 3), (3, 4)]
        assert worker.texts == {}
        door.touch()
        worker.until_done(4)
        assert worker.texts == {(1, 0): "done"}


def test_sync_and_async_listeners_of_one_app_share_its_rests(journal: Path) -> None:
    with WorkerProcess("apps.pacing_async:bus", journal) as worker:
        worker.give("sync", GOOD, LONG, GOOD)
        worker.give("pool", GOOD)
        worker.give("sync", GOOD)
        worker.until_done(5)
        assert worker.discarded == [(2, 3), (3, 4), (4, 5)]
