"""The simulation keeps every promise."""

import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import REPOSITORY

from durable_bus.payloads.settings import LimitSettings
from durable_bus.supervisor.outcomes import attempts
from durable_bus.supervisor.scheduling import timeouts, turns
from durable_bus.wire.parts import Terms
from simulation import Machine, Violation, run_schedule
from simulation.equals import equal_items, with_memos
from simulation.faults import Engine
from simulation.handlers import Answers, Call
from simulation.listeners import LISTENERS, SimulatedApp
from simulation.records import Content
from simulation.schedule import RETURNS_MAX, cuts, some_content, some_letters, some_terms
from simulation.storage import AT_COMMIT, fast_folder
from simulation.streamers import Habits

SEEDS = 30
"""How many schedules make one test; `tools/simulate.py` runs any number."""
SIMULATE = REPOSITORY / "tools" / "simulate.py"


@pytest.mark.parametrize(
    "first",
    [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(SEEDS, 6 * SEEDS, SEEDS))],
)
def test_no_schedule_of_faults_breaks_a_promise(folder: Path, first: int) -> None:
    """In several tests, so that they can run side by side."""
    for seed in range(first, first + SEEDS):
        run_schedule(seed, folder)


def test_a_worker_that_is_to_stop_again_as_it_has_stopped_goes_on(folder: Path) -> None:
    """A second pause came in the turn in which both workers had said that they threw away what the first one
    took back. They say it once, and were waited for as if they had not: neither got anything any more.
    """
    machine = Machine(0, folder, workers=2)
    try:
        for seed, talk in ((5151, 0.0), (0, 0.0), (2345, 0.0), (39822, 0.3)):
            if seed == 39822:
                for _ in range(2):
                    machine.control("pause", "b3")
                machine.control("pause", "b0")
            rng = random.Random(seed)
            content = some_content(rng, f"b{seed % 4}", 12, [*machine.listeners], talk, None)
            machine.start_buffer(content, cuts(rng, len(content.texts)))
            if seed == 5151:
                machine.control("pause", "b3")
        machine.settle()
    finally:
        machine.close()


def test_who_has_waited_long_is_served_beside_any_number_of_urgent_items(folder: Path) -> None:
    """It went out when it was its turn, and was taken back each time for the next urgent item."""
    machine = Machine(0, folder, workers=1, app=SimulatedApp(handler=lambda call: Answers(0.1, call.text)))
    try:
        urgent = Content("urgent", "once", True, ("item",) * 300, (0,) * 300, terms=Terms(priority=1))
        machine.start_buffer(urgent, [300])
        machine.start_buffer(Content("other", "thrice", True, ("item",), (0,)), [1], delay_s=1.0)
        machine.settle()
        ended = machine.model.query("SELECT buffer_id FROM buffer ORDER BY ended_commit")
        assert ended == [("other",), ("urgent",)]
    finally:
        machine.close()


def test_buffers_that_wait_for_a_limit_are_not_put_in_order(folder: Path) -> None:
    """A thousand of them cost 2 ms in each turn, whatever it was for."""
    limits = {"steady": LimitSettings("steady", "1/h", None)}
    machine = Machine(0, folder, workers=1, app=SimulatedApp(limits=limits))
    try:
        for number in range(3):
            content = Content(f"b{number}", "paced", True, ("item 0 ok",) * 2, (0,) * 2)
            machine.start_buffer(content, [2])
        while machine.model.query("SELECT count(*) FROM buffer") != [(3,)] or not machine.model.query(
            "SELECT 1 FROM result"
        ):
            machine.turn()
        machine.start_buffer(Content("other", "once", True, ("item 0 ok",) * 5, (0,) * 5), [5])
        with patch.object(turns, "level_of", return_value=0) as level_of:
            while not machine.model.query("SELECT 1 FROM buffer WHERE ended_commit IS NOT NULL"):
                machine.turn()
        assert {call.args[0].buffer_id for call in level_of.call_args_list} == {"other"}
        machine.set_limit("steady", "1000/s", None)
        machine.settle()
    finally:
        machine.close()


def test_an_engine_that_has_answered_all_may_close_while_others_finish(folder: Path) -> None:
    """A stop takes back what has not begun, and who had nothing left was missed for not saying so: it was
    killed after three seconds, and did not close its engine.
    """
    listeners = {"once": msgspec.structs.replace(LISTENERS["once"], timeout_s=20.0)}

    def handler(call: Call) -> Answers:
        return Answers(6.0 if call.is_message else 0.2, call.text)

    app = SimulatedApp(listeners, {}, handler)
    machine = Machine(0, folder, workers=1, app=app, engine=Engine(places=1))
    try:
        machine.start_buffer(Content("b", "once", True, ("item",) * 9, (0,) * 9), [9])
        machine.correspond("alice", [("once", "item")])
        while machine.model.query("SELECT count(*) FROM dispatch") == [(0,)] or not machine.model.query(
            "SELECT 1 FROM message WHERE delivered_commit IS NOT NULL"
        ):
            machine.turn()
        machine.signal("stop")
        while machine.stops == 0:
            machine.turn()
        assert machine.world.now_ns > 5e9
        machine.settle()
    finally:
        machine.close()


def test_the_same_seed_is_the_same_schedule(folder: Path) -> None:
    assert [run_schedule(7, folder), run_schedule(8, folder)] == [
        run_schedule(7, folder),
        run_schedule(8, folder),
    ]


@pytest.mark.slow
def test_ten_thousand_schedules_need_one_command() -> None:
    """In the small: the command, its summary, and one process for each core."""
    done = subprocess.run(
        [sys.executable, str(SIMULATE), "--seeds", "12", "--start", "1000"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 schedules, 0 failed: ")


@pytest.mark.slow
def test_a_seed_is_the_same_schedule_in_every_process(tmp_path: Path) -> None:
    told = []
    for hash_seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, SIMULATE, "--seed", "11", "--verbose"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) > 50
        told.append([line for line in lines if " schedules" not in line])
    assert told[0] == told[1]


# Workers that are stopped


def stop_workers(folder: Path, seed: int) -> None:
    """Buffers of a few items each; workers are stopped at any of their steps, half of them for good."""
    machine = Machine(seed, folder, workers=1 + seed % 3)
    machine.faults.freeze = 0.03
    try:
        for number in range(4):
            content = Content(f"b{number}", "once", True, ("item 0 ok",) * 3, (False,) * 3)
            machine.start_buffer(content, [3], delay_s=number)
        for _ in range(60):
            machine.turn()
        machine.settle()
        assert machine.model.query("SELECT count(*) FROM failure WHERE kind = 'lost'") == [(0,)]
    finally:
        machine.close()


@pytest.mark.slow
def test_every_buffer_ends_though_workers_are_stopped_at_any_step(folder: Path) -> None:
    """And nobody is charged with the end of a worker in which nothing ran."""
    for seed in range(SEEDS):
        stop_workers(folder, seed)


@pytest.mark.slow
def test_without_looking_at_who_does_not_begin_a_buffer_would_not_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "ASK_AFTER_S", float("inf"))
    monkeypatch.setattr(timeouts, "KILL_AFTER_S", float("inf"))
    with pytest.raises(Violation, match="it never came true: every buffer ends"):
        for seed in range(SEEDS):
            stop_workers(folder, seed)


# What hypothesis thinks of

BAD_ENGINE = Engine(places=8, neighbours="all", refuse=0.1, submit=0.05, gone=0.02, late_reply=0.5, slow=0.1)


class ASupervisorInTrouble(RuleBasedStateMachine):
    """The same machine, its trouble chosen by hypothesis, which then looks for the shortest way to it."""

    machine: Machine | None = None

    @initialize(
        seed=st.integers(0, 1 << 32),
        workers=st.integers(1, 3),
        engine=st.sampled_from([None, Engine(neighbours="some"), BAD_ENGINE]),
    )
    def start(self, seed: int, workers: int, engine: Engine | None) -> None:
        self.folder = fast_folder()
        listeners = with_memos(LISTENERS, {"once": "v1", "many": "v1", "both": "v1"})
        workers = 1 if engine is not None else workers
        self.machine = Machine(seed, self.folder, workers=workers, app=SimulatedApp(listeners), engine=engine)
        self.machine.faults.answer_twice = 0.1
        self.machine.spends = 0.3
        self.returns_max = patch.object(attempts, "RETURNS_MAX", RETURNS_MAX)
        self.returns_max.start()

    @precondition(lambda self: self.machine and len(self.machine.producers) < 4)
    @rule(
        seed=st.integers(0, 1 << 16),
        talk=st.sampled_from([0.0, 0.3]),
        mailbox=st.sampled_from([None, "alice"]),
    )
    def a_client_starts_a_buffer(self, seed: int, talk: float, mailbox: str | None) -> None:
        assert self.machine is not None
        rng = random.Random(seed)
        content = some_content(rng, f"b{seed % 4}", 12, [*self.machine.listeners], talk, mailbox)
        content = equal_items(rng, content, [], seed % 2 / 2)
        content = replace(content, terms=some_terms(rng, self.machine.clock.now_ms()))
        self.machine.start_buffer(content, cuts(rng, len(content.texts)), mailbox=mailbox)

    @rule(
        name=st.sampled_from(["steady", "few"]),
        rate=st.sampled_from([None, "2/s", "50/s"]),
        running=st.sampled_from([None, 1, 5]),
    )
    def a_limit_is_set(self, name: str, rate: str | None, running: int | None) -> None:
        assert self.machine is not None
        self.machine.set_limit(name, rate, running)

    @precondition(lambda self: self.machine and len(self.machine.producers) < 6)
    @rule(seed=st.integers(0, 1 << 16), number=st.integers(0, 1))
    def a_client_puts_the_items_of_a_stream(self, seed: int, number: int) -> None:
        """It is the first, comes when the others have gone, or while one is there."""
        assert self.machine is not None
        content = some_content(random.Random(number), f"s{number}", 12, [*self.machine.listeners], 0.0, None)
        self.machine.stream(content, Habits.draw(random.Random(seed)))

    @precondition(lambda self: self.machine and len(self.machine.peers) < 6)
    @rule(seed=st.integers(0, 1 << 16))
    def a_client_sends_messages(self, seed: int) -> None:
        assert self.machine is not None
        self.machine.correspond("alice", some_letters(random.Random(seed), [*self.machine.listeners], 0.3))

    @precondition(lambda self: self.machine and self.machine.producers)
    @rule(number=st.integers(0, 3), verb=st.sampled_from(["pause", "resume", "cancel"]))
    def a_buffer_is_to(self, number: int, verb: str) -> None:
        assert self.machine is not None
        producers = self.machine.producers
        self.machine.control(verb, producers[number % len(producers)].content.buffer_id)

    @rule(count=st.integers(1, 12))
    def time_passes(self, count: int) -> None:
        assert self.machine is not None
        for _ in range(count):
            self.machine.turn()

    @rule(fault=st.sampled_from(AT_COMMIT))
    def the_next_commit_goes_wrong(self, fault: str) -> None:
        assert self.machine is not None
        self.machine.at_next_commit(fault)
        self.machine.turn()

    @rule()
    def the_supervisor_is_killed(self) -> None:
        assert self.machine is not None
        self.machine.crash()

    @rule(pages=st.one_of(st.none(), st.integers(0, 2)))
    def the_disk_has_room_for(self, pages: int | None) -> None:
        assert self.machine is not None
        self.machine.leave_pages(pages)

    @rule(number=st.integers(0, 2))
    def a_worker_is_killed(self, number: int) -> None:
        assert self.machine is not None
        self.machine.kill_worker(number)

    @rule(number=st.integers(0, 2), seconds=st.sampled_from([0.01, 0.5, 5.0]))
    def a_worker_is_stopped_for(self, number: int, seconds: float) -> None:
        assert self.machine is not None
        self.machine.freeze_worker(number, seconds)

    @rule(name=st.sampled_from(["stop", "reload"]))
    def a_signal_comes(self, name: str) -> None:
        assert self.machine is not None
        self.machine.signal(name)

    @precondition(lambda self: self.machine and self.machine.producers)
    @rule(number=st.integers(0, 3), what=st.sampled_from(["break_connection", "vanish", "ask_again"]))
    def a_client_has_trouble(self, number: int, what: str) -> None:
        assert self.machine is not None
        producers = self.machine.producers
        getattr(producers[number % len(producers)], what)()

    @invariant()
    def all_promises_are_kept(self) -> None:
        if self.machine is not None:
            self.machine.model.check()

    def teardown(self) -> None:
        if self.machine is not None:
            try:
                self.machine.settle()
            finally:
                self.machine.close()
                self.returns_max.stop()
                shutil.rmtree(self.folder)


ASupervisorInTrouble.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestASupervisorInTrouble = pytest.mark.slow(ASupervisorInTrouble.TestCase)
