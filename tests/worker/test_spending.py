"""What a handler spends is told at once, while it runs, and never after its attempt has ended."""

from pathlib import Path

import msgspec
from support import until
from worker_process import WorkerProcess

from durable_bus.wire.parts import Spent


def test_it_is_told_while_the_handler_runs(worker: WorkerProcess, tmp_path: Path) -> None:
    door = tmp_path / "door"
    first, second = {"usd": 0.002, "tokens": 812}, {"usd": 1}
    worker.give("ask", [["spend", first], ["spend", second], ["gate", str(door)], ["spend", {"tokens": 0}]])
    worker.until(lambda: len(worker.spent) == 2, "both are told")
    assert worker.texts == {}
    door.touch()
    worker.until_done(1)
    assert worker.spent == [
        Spent(1, 0, 0, {"usd": 0.002, "tokens": 812.0}),
        Spent(1, 0, 1, {"usd": 1.0}),
        Spent(1, 0, 2, {"tokens": 0.0}),
    ]


def test_each_attempt_counts_by_itself_and_a_failed_one_has_spent_too(worker: WorkerProcess) -> None:
    spends = ["spend", {"usd": 1}]
    worker.give("ask", [spends, spends], [spends, ["raise", "ValueError"]], [spends, ["after", 1]])
    worker.give("ask", [spends])
    worker.until_done(4)
    assert [(one.dispatch, one.index, one.number) for one in worker.spent] == [
        (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 2, 0), (2, 0, 0),
    ]  # fmt: skip
    assert [failed.kind for failed in worker.failed] == ["exception", "retry_after"]


def test_it_leaves_before_its_answer_or_with_it(worker: WorkerProcess) -> None:
    worker.give("ask", *[[["spend", {"usd": 1}]]] * 5000)
    worker.until_done(5000)
    spent: set[int] = set()
    for frame in worker.frames:
        spent |= {one.index for one in frame.spent}
        for segment in frame.segments:
            assert {*range(segment.first, segment.first + segment.count)} <= spent
    assert len(worker.spent) == len(spent) == 5000


def test_a_message_may_spend(worker: WorkerProcess) -> None:
    worker.tell("ask", [["spend", {"usd": 1}]])
    worker.until_done(1)
    assert worker.spent == [Spent(-1, 0, 0, {"usd": 1.0})]


def test_another_thread_of_the_handler_may_spend(worker: WorkerProcess) -> None:
    worker.give("ask", [["in a thread", {"usd": 3}]])
    worker.until_done(1)
    assert worker.spent == [Spent(1, 0, 0, {"usd": 3.0})]


def test_after_the_attempt_it_is_too_late(worker: WorkerProcess, tmp_path: Path) -> None:
    door = tmp_path / "door"
    endings = {"ask": [], "free": [["raise", "ValueError"]], "store": [["after", 1]]}
    for listener, steps in endings.items():
        worker.give(listener, [["later", str(door), str(tmp_path / listener)], *steps])
    worker.tell("ask", [["later", str(door), str(tmp_path / "message")]])
    worker.until_done(4)
    door.touch()
    for name in (*endings, "message"):
        until((tmp_path / name).exists, f"the thread of {name} has spoken")
        assert (tmp_path / name).read_text() == "spend() comes too late: this attempt has ended"
    worker.give("ask", [])
    worker.until_done(5)
    assert worker.spent == []


def test_a_late_coroutine_that_was_given_up_may_not_spend_any_more(journal: Path, tmp_path: Path) -> None:
    door = tmp_path / "door"
    with WorkerProcess("apps.pacing_async:bus", journal) as worker:
        late = [["later", str(door), str(tmp_path / "told")], ["gate", str(tmp_path / "never")]]
        worker.give("impatient", [["spend", {"usd": 1}], *late])
        worker.until_done(1)
        assert worker.failed[0].kind == "timeout"
        door.touch()
        until((tmp_path / "told").exists, "the thread has spoken")
        assert "too late" in (tmp_path / "told").read_text()
        assert worker.spent == [Spent(1, 0, 0, {"usd": 1.0})]


def test_a_copy_spends_for_the_attempt_but_not_in_another_process(worker: WorkerProcess) -> None:
    worker.give("elsewhere", "x")
    worker.until_done(1)
    refusal = "spend() is for the process that runs the handler; this is another"
    assert msgspec.json.decode(worker.texts[1, 0]) == [refusal, refusal]
    assert worker.spent == [Spent(1, 0, 0, {"usd": 2.0})]


def test_a_handler_that_says_it_in_a_loop_is_told_in_parts(worker: WorkerProcess, tmp_path: Path) -> None:
    worker.give("ask", [["spend", {"usd": 1}]] * 3500)
    worker.until_done(1)
    assert [one.number for one in worker.spent] == [*range(3500)]
    assert max(len(frame.spent) for frame in worker.frames) <= 1000
