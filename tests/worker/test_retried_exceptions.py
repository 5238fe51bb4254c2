"""Which exceptions a listener retries: the worker says so of each."""

import pytest
from worker_process import WorkerProcess

DONE: list[list[object]] = []


@pytest.mark.parametrize(
    ("item", "kind", "final"),
    [
        ([["raise", "KeyError"]], "exception", False),
        ([["raise", "FileNotFoundError"]], "exception", False),
        ([["raise", "ValueError"]], "exception", True),
        ([["raise", "SystemExit"]], "exception", True),
        ([["after", 1, "nobody"]], "exception", True),
        ([["after", 1, "api"]], "retry_after", False),
        ([["answer a set"]], "answer", False),
        ("no list", "malformed", False),
    ],
)
def test_other_exceptions_are_final_and_what_is_no_exception_is_not_asked(
    worker: WorkerProcess, item: object, kind: str, final: bool
) -> None:
    worker.give("picky", item)
    worker.until_done(1)
    (failed,) = worker.failed
    assert (failed.kind, failed.final) == (kind, final)


def test_without_retry_on_no_exception_is_final(worker: WorkerProcess) -> None:
    worker.give("free", [["raise", "ValueError"]])
    worker.tell("free", [["raise", "ValueError"]])
    worker.until_done(2)
    assert [failed.final for failed in worker.failed] == [False, False]


def test_it_is_said_of_messages_too(worker: WorkerProcess) -> None:
    worker.tell("picky", [["raise", "ValueError"]])
    worker.tell("picky", [["raise", "KeyError"]])
    worker.until_done(2)
    assert [(failed.dispatch, failed.final) for failed in worker.failed] == [(-1, True), (-2, False)]


def test_a_coroutine_that_is_late_is_retried(journal, tmp_path) -> None:  # type: ignore[no-untyped-def]
    with WorkerProcess("apps.pacing_async:bus", journal) as worker:
        worker.give("impatient", [["gate", str(tmp_path / "never")]])
        worker.until_done(1)
        (failed,) = worker.failed
        assert (failed.kind, failed.final) == ("timeout", False)
