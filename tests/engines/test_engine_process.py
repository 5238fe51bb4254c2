"""Items run on an engine: what comes back, and what becomes of what does not."""

import os
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from apps import elsewhere
from engine_processes import installed
from services import Service
from support import Facts, children_of, command_of, kill, until, until_gone, workers_of

from durable_bus import Client
from durable_bus.errors import EngineError, UsageError

THREADS = "apps.elsewhere:threads"


@pytest.fixture
def on_engine(journal: Path) -> Callable[..., AbstractContextManager[Client]]:
    def running(engine: str = "process:2", **options: object) -> AbstractContextManager[Client]:
        return elsewhere.bus.running(journal, engine=engine, **options)  # type: ignore[arg-type]

    return running


Running = Callable[..., AbstractContextManager[Client]]


def engine_of(supervisor_pid: int | None) -> int:
    """The pid of a supervisor's engine process, when it has one."""

    def find() -> int:
        children = children_of(supervisor_pid or 0)
        return next((pid for pid in children if "durable_bus.engines" in command_of(pid)), 0)

    return int(until(find, "there is an engine process"))


OTHERS = [pytest.param(engine, marks=pytest.mark.slow) for engine in ("loky:2", "executorlib:2", "mpi:2")]


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("engine", [THREADS, "process:2", *OTHERS])
def test_what_handlers_give_comes_back_as_it_would_from_a_worker(
    on_engine: Running, facts: Facts, engine: str
) -> None:
    installed(engine.partition(":")[0])
    values = [1, 2.5, "text\n<&>", [1, {"a": None}], b"bytes", "ü" * 10_000]
    numbers = range(500)
    with on_engine(engine) as client:
        mixed = client.start("double", values)
        plain = client.start("double", numbers)
        awaited = client.start("late-double", numbers)
        failing = client.start("double", [None])
        mixed.wait(60)
        assert [result.value for result in mixed.results()] == [value * 2 for value in values]
        for buffer in (plain, awaited):
            assert buffer.wait(60).successful == 500
            assert [result.value for result in buffer.results()] == [2 * number for number in numbers]
        assert failing.wait(60).successful == 0
        assert "TypeError" in facts.failures(failing.buffer_id)[0][3]
        own = client.start("pid", range(20))
        own.wait(60)
        runs_here = engine == THREADS
        assert ({result.value for result in own.results()} == {engine_of(client.supervisor_pid)}) == runs_here


@pytest.mark.slow
def test_a_message_is_handled_here_and_what_handlers_pass_on_goes_on(
    on_engine: Running, facts: Facts
) -> None:
    with on_engine() as client:
        client.start("starts", [1, 2], buffer_id="outer", return_to="ends")
        facts.until(
            "SELECT count(*) = 2 FROM buffers WHERE buffer_id IN ('of-1', 'of-2') AND state = 'complete'"
        )
        facts.until("SELECT settled_commit FROM message WHERE kind = 'BufferComplete' AND to_id = 'ends'")
        handled_by = facts.value(
            "SELECT worker_pid FROM message WHERE kind = 'BufferComplete' AND to_id = 'ends'"
        )
        assert workers_of(client.supervisor_pid or 0) == [handled_by]


@pytest.mark.slow
@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("engine", ["process:2", *OTHERS])
def test_only_the_item_that_ends_its_process_is_blamed(on_engine: Running, facts: Facts, engine: str) -> None:
    """Whom it went out with is tried again in halves. With others than our own each death takes a second."""
    count, deadly = (100, 41) if engine == "process:2" else (8, 5)
    installed(engine.partition(":")[0])
    with on_engine(engine) as client:
        items = [{"number": number, "deadly": deadly} for number in range(count)]
        complete = client.start("poison", items, buffer_id="deadly").wait(120)
        assert (complete.total, complete.successful) == (count, count - 1)
        assert client.start("double", [1]).wait(60).successful == 1  # it goes on
    assert {(index, kind) for index, _, kind, _ in facts.failures("deadly")} == {(deadly, "lost")}
    assert set(facts.rows('SELECT f."where" FROM failures f')) == {(engine,)}
    ran = {where for (where,) in facts.rows('SELECT r."where" FROM results r WHERE success')}
    assert {where.rpartition(":")[0] for where in ran} == {socket.gethostname()}
    assert len(ran) >= 2  # its process ended at least once


@pytest.mark.slow
@pytest.mark.usefixtures("importable")
def test_a_rank_whose_death_mpiexec_does_not_notice_ends_its_engine(
    on_engine: Running, facts: Facts, tmp_path: Path
) -> None:
    installed("mpi")
    gate = tmp_path / "gate"
    with on_engine("mpi:2") as client:
        buffer = client.start("gate", [str(gate)] * 4)
        facts.until("SELECT count(*) > 1 FROM in_flight")
        (mpiexec,) = until(lambda: children_of(engine_of(client.supervisor_pid)), "mpiexec runs")
        (launcher,) = until(lambda: children_of(mpiexec), "it has started who starts the ranks")
        rank, _ = children_of(launcher)
        os.kill(launcher, signal.SIGSTOP)
        try:
            kill(rank)
            gate.touch()
            assert buffer.wait(60).successful == 4
        finally:
            os.kill(launcher, signal.SIGCONT)


@pytest.mark.slow
def test_only_the_item_that_does_not_end_is_late(on_engine: Running, facts: Facts) -> None:
    with on_engine() as client:
        assert client.start("hangs", range(20), buffer_id="late").wait(120).successful == 19
    assert {(index, kind) for index, _, kind, _ in facts.failures("late")} == {(7, "timeout")}


@pytest.mark.slow
def test_what_an_engine_does_not_take_is_charged_with_nothing(on_engine: Running, facts: Facts) -> None:
    with on_engine("apps.elsewhere:hesitant") as client:
        assert client.start("double", [1], buffer_id="one").wait(60).successful == 1
    assert facts.failures("one") == []
    assert facts.rows("SELECT ended FROM dispatches ORDER BY dispatch_id") == [
        ("returned",), ("returned",), ("answered",)
    ]  # fmt: skip


@pytest.mark.slow
def test_nothing_is_charged_with_a_death_of_the_engine_process(
    on_engine: Running, facts: Facts, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with on_engine(engine_workers=4) as client:
        client.start("gate", [str(gate)] * 40, buffer_id="many")
        facts.until("SELECT count(*) >= 2 FROM in_flight WHERE buffer_id = 'many'")
        engine = engine_of(client.supervisor_pid)
        children = children_of(engine)
        assert len(children) >= 2
        kill(engine)
        for child in children:
            until_gone(child)
        gate.touch()
        assert client.buffer("many").wait(60).successful == 40
        assert engine_of(client.supervisor_pid) != engine
    assert facts.failures("many") == []


@pytest.mark.slow
def test_a_killed_supervisor_leaves_nobody_behind_and_the_next_one_goes_on(
    journal: Path, facts: Facts, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with Service(journal, "apps.elsewhere:bus", workers=1, engine={"name": "process:2"}) as service:
        with service.client() as client:
            client.start("gate", [str(gate)] * 40, buffer_id="many")
        facts.until("SELECT count(*) >= 2 FROM in_flight WHERE buffer_id = 'many'")
        engine = engine_of(service.process.pid)
        pids = [engine, *children_of(engine), *children_of(service.process.pid)]
        service.kill()
        for pid in pids:
            until_gone(pid)
        gate.touch()
        service.process = service.spawn()
        service.until_serving()
        with service.client() as client:
            assert client.buffer("many").wait(60).successful == 40


@pytest.mark.slow
def test_a_stop_ends_the_engine_and_its_processes(on_engine: Running) -> None:
    with on_engine() as client:
        client.start("double", range(10)).wait(60)
        engine = engine_of(client.supervisor_pid)
        pids = [engine, *children_of(engine)]
    for pid in pids:
        until_gone(pid)


@pytest.mark.slow
def test_an_attempt_that_fails_is_made_again_and_each_is_paid_for(on_engine: Running, facts: Facts) -> None:
    with on_engine() as client:
        buffer = client.start("second-time", range(5))
        assert buffer.wait(60).successful == 5
        assert [result.value for result in buffer.results()] == [2] * 5
    assert facts.value("SELECT sum(amount) FROM spending WHERE unit = 'calls'") == 10


@pytest.mark.slow
def test_limits_hold_on_an_engine(on_engine: Running, facts: Facts, tmp_path: Path) -> None:
    with on_engine("process:4") as client:
        buffer = client.start("side-by-side", range(20))
        buffer.wait(60)
        times = [result.value for result in buffer.results()]
        assert max(sum(begun <= at < ended for begun, ended in times) for at, _ in times) <= 2
        assert client.start("rests", ["", str(tmp_path / "rested"), *[""] * 8]).wait(60).successful == 10
    assert facts.value("SELECT count(*) FROM limits WHERE name = 'rate'") == 1


@pytest.mark.slow
def test_equal_items_run_once(on_engine: Running) -> None:
    with on_engine() as client:
        first = client.start("remembered", [1, 2, 1])
        first.wait(60)
        second = client.start("remembered", [2, 1])
        second.wait(60)
        one, two, again = [result.value for result in first.results()]
        assert [result.value for result in second.results()] == [two, one]
        assert again == one


@pytest.mark.slow
def test_what_was_submitted_is_not_taken_back_by_a_pause_but_nothing_follows(
    on_engine: Running, facts: Facts, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with on_engine(engine_workers=3) as client:
        client.start("gate", [str(gate)] * 100, buffer_id="many")
        facts.until("SELECT count(*) = 3 FROM in_flight WHERE buffer_id = 'many'")
        assert set(facts.rows('SELECT i."where" FROM in_flight i')) == {("process:2",)}
        client.pause("many")
        gate.touch()
        facts.until("SELECT count(*) = 0 FROM in_flight WHERE buffer_id = 'many'")
        paused_at = facts.recorded("many")
        assert 3 <= paused_at < 100
        client.start("double", range(100)).wait(60)
        assert facts.recorded("many") == paused_at
        client.resume("many")
        assert client.buffer("many").wait(60).successful == 100


@pytest.mark.slow
def test_a_cancelled_buffer_ends_at_once_and_leaves_no_result(
    on_engine: Running, facts: Facts, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with on_engine(engine_workers=2) as client:
        client.start("gate", [str(gate)] * 100, buffer_id="many")
        facts.until("SELECT count(*) = 2 FROM in_flight WHERE buffer_id = 'many'")
        client.cancel("many")
        gate.touch()
        facts.until("SELECT state = 'cancelled' FROM buffers WHERE buffer_id = 'many'")
        assert client.start("double", range(100)).wait(60).successful == 100
    assert facts.recorded("many") < 100


@pytest.mark.slow
def test_items_that_arrive_while_others_run(on_engine: Running) -> None:
    with on_engine() as client:
        with client.stream("double", buffer_id="arrive") as stream:
            for number in range(1000):
                stream.put(number)
        assert client.buffer("arrive").wait(60).successful == 1000


@pytest.fixture
def changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An app in a file that is written anew."""
    path = tmp_path / "changing.py"
    path.write_text(CHANGING.format(answer=1))
    monkeypatch.chdir(tmp_path)
    return path


CHANGING = """
import os
from durable_bus import Bus

bus = Bus("changing", form="json")

@bus.listener("answer")
def answer(number: int) -> int:
    if number < 0:
        os._exit(1)
    return {answer}
"""


@pytest.mark.slow
def test_a_worker_that_has_other_code_is_given_nothing_to_run(
    changing: Path, journal: Path, facts: Facts
) -> None:
    with Service(
        journal, "changing:bus", workers=1, cwd=changing.parent, engine={"name": "process:1"}
    ) as service:
        with service.client() as client:
            assert client.start("answer", [0]).wait(60).successful == 1
            # Longer: of the same second and length, Python would take the bytecode of before.
            changing.write_text(CHANGING.format(answer=22))
            client.start("answer", [-1], buffer_id="deadly")
            waits = client.start("answer", [0], buffer_id="waits")
            until(lambda: "has other code of the app" in service.log(), "the log says why")
            assert waits.status().completed == 0
            service.process.send_signal(signal.SIGHUP)
            assert waits.wait(60).successful == 1
            assert [result.value for result in waits.results()] == [22]
            assert client.buffer("deadly").wait(60).successful == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "why"),
    [
        ("apps.elsewhere:no_executor", "Executor"),
        ("apps.elsewhere:nobody", "nobody"),
        ("no_such_module:factory", "no_such_module"),
    ],
)
def test_an_engine_that_cannot_be_had_is_told_to_the_first_client(
    on_engine: Running, engine: str, why: str
) -> None:
    with pytest.raises(EngineError, match=why):
        on_engine(engine).__enter__()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"engine": "daks"}, EngineError),
        ({"engine": ""}, EngineError),
        ({"engine": 7}, UsageError),
        ({"engine": "process:0"}, EngineError),
        ({"engine": "process:2", "workers": 2}, UsageError),
        ({"engine": "process:2", "engine_workers": 0}, UsageError),
        ({"engine": "local", "engine_workers": 2}, UsageError),
        ({"engine_workers": 2}, UsageError),
    ],
)
def test_what_cannot_be_an_engine_is_refused_before_anything_starts(
    journal: Path, options: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        elsewhere.bus.running(journal, **options).__enter__()  # type: ignore[arg-type]
    assert not journal.exists()
