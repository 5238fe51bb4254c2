"""SIGHUP loads the app anew, under load, and costs nobody an item."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from services import Raw, Service
from support import Facts, RunLog, is_alive, until, until_gone

from durable_bus import BufferError
from durable_bus.errors import MessageRefused

APP = """
import os
import time

from apps.plain import log_run
from durable_bus import Bus, HandlerMetadata

bus = Bus("changing")


@bus.listener("work")
def work(text: str, metadata: HandlerMetadata) -> str:
    log_run(metadata.index, "{version}")
    time.sleep(0.001)
    while text and not os.path.exists(text):
        time.sleep(0.005)
    return "{version}"
"""
MORE = """

@bus.listener("more")
def more(text: str) -> str:
    return "more"
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The app's file. No bytecode: two versions of one size within a second would share it."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    path = tmp_path / "changing.py"
    path.write_text(APP.format(version="old"))
    return path


def serve(journal: Path, app: Path) -> Service:
    return Service(journal, "changing:bus", cwd=app.parent)


def versions(facts: Facts) -> dict[str, int]:
    return dict(facts.rows("SELECT payload, count(*) FROM results GROUP BY payload"))


@pytest.mark.slow
def test_new_code_takes_over_under_load_and_no_item_fails(
    journal: Path, facts: Facts, app: Path, run_log: RunLog
) -> None:
    """From the commit on that gives the first item to new code, nothing is given to old code."""
    with serve(journal, app) as service, service.client() as client:
        service.until_ready()
        buffer = client.start("work", [""] * 4000, buffer_id="b")
        facts.until_recorded("b", 300)
        before = service.workers()
        app.write_text(APP.format(version="new"))
        service.send(signal.SIGHUP)
        assert buffer.wait(100).successful == 4000
        for pid in before:
            until_gone(pid)
    assert facts.failures("b") == []
    assert run_log.times() == dict.fromkeys(range(4000), 1)
    assert set(versions(facts)) == {"old", "new"}
    pids: dict[str, set[int]] = {"old": set(), "new": set()}
    for run in run_log.runs():
        pids[run.word].add(run.worker_pid)
    assert pids["old"] == set(before)
    given = facts.rows("SELECT worker_pid, commit_id FROM dispatch")
    last_to_old = max(commit for pid, commit in given if pid in pids["old"])
    first_to_new = min(commit for pid, commit in given if pid in pids["new"])
    assert last_to_old < first_to_new


def test_what_old_code_runs_it_finishes_and_what_it_has_not_begun_goes_to_new_code(
    journal: Path, facts: Facts, app: Path, run_log: RunLog
) -> None:
    door = journal.parent / "door"
    with serve(journal, app) as service, service.client() as client:
        buffer = client.start("work", [str(door), str(door), *[""] * 50], buffer_id="b")
        until(lambda: {0, 1} & set(run_log.indexes()), "old code has begun")
        until(lambda: len(run_log.runs()) >= 2, "both have begun")
        slow = set(run_log.indexes()) & {0, 1}
        app.write_text(APP.format(version="new"))
        service.send(signal.SIGHUP)
        facts.until_recorded("b", 50)
        door.touch()
        assert buffer.wait(60).successful == 52
        results = {result.index: result.payload for result in buffer.results()}
    assert {results[index] for index in slow} == {"old"}
    assert facts.failures("b") == []
    assert run_log.times() == dict.fromkeys(range(52), 1)


@pytest.mark.slow
def test_new_code_that_cannot_be_imported_changes_nothing_and_status_says_so(
    journal: Path, facts: Facts, app: Path, run_log: RunLog
) -> None:
    with serve(journal, app) as service, service.client() as client:
        service.until_ready()
        before = service.workers()
        app.write_text("import nothing_of_that_name\n")
        service.send(signal.SIGHUP)
        service.until_logged("cannot import")
        assert client.start("work", [""] * 500, buffer_id="b").wait(60).successful == 500
        assert all(is_alive(pid) for pid in before)
        assert versions(facts) == {"old": 500}
        assert {run.worker_pid for run in run_log.runs()} <= set(before)
        told = client.supervisor_status(60)
        assert "nothing_of_that_name" in told["import_error"]
        assert [worker["old_code"] for worker in told["workers"] if worker["pid"] in before] == [True, True]
        app.write_text(APP.format(version="new"))
        service.send(signal.SIGHUP)
        for pid in before:
            until_gone(pid)
        assert client.start("work", [""], buffer_id="c").wait(60).successful == 1
        assert client.supervisor_status(60)["import_error"] is None
        assert [result.payload for result in client.buffer("c").results()] == ["new"]


@pytest.mark.slow
def test_a_worn_out_worker_works_on_while_new_code_cannot_be_imported(
    journal: Path, facts: Facts, app: Path, run_log: RunLog
) -> None:
    """Nobody could replace it. When the code is mended, no worker runs more items than it may again."""
    door = journal.parent / "door"
    with (
        Service(journal, "changing:bus", workers=1, cwd=app.parent, items_per_worker_max=20) as service,
        service.client() as client,
    ):
        service.until_ready()
        buffer = client.start("work", [str(door)] * 100, buffer_id="b")
        run_log.until_started(0)
        (worker,) = service.workers()
        app.write_text("import nothing_of_that_name\n")
        service.send(signal.SIGHUP)
        door.touch()
        assert buffer.wait(60).successful == 100
        assert Counter(run.worker_pid for run in run_log.runs()) == {worker: 100}
        app.write_text(APP.format(version="new"))
        service.send(signal.SIGHUP)
        until_gone(worker)
        assert client.start("work", [""] * 100, buffer_id="c").wait(60).successful == 100
    runs = Counter(run.worker_pid for run in run_log.runs() if run.word == "new")
    assert sum(runs.values()) == 100
    assert max(runs.values()) <= 20
    assert facts.failures("b") == facts.failures("c") == []


@pytest.mark.slow
def test_a_worn_out_worker_works_on_when_its_replacement_cannot_be_imported(
    journal: Path, facts: Facts, app: Path, run_log: RunLog
) -> None:
    """Without a reload: the file was changed under the daemon. It is tried again until it is mended."""
    with (
        Service(journal, "changing:bus", workers=1, cwd=app.parent, items_per_worker_max=20) as service,
        service.client() as client,
    ):
        service.until_ready()
        (worker,) = service.workers()
        app.write_text("import nothing_of_that_name\n")
        assert client.start("work", [""] * 100, buffer_id="b").wait(60).successful == 100
        app.write_text(APP.format(version="new"))
        until_gone(worker)
        assert client.start("work", [""], buffer_id="c").wait(60).successful == 1
    assert versions(facts) == {"old": 100, "new": 1}


@pytest.mark.slow
def test_a_listener_that_new_code_lacks_leaves_its_buffers_open_until_it_is_back(
    journal: Path, facts: Facts, app: Path, run_log: RunLog
) -> None:
    app.write_text(APP.format(version="old") + MORE)
    with serve(journal, app) as service, service.client() as client:
        service.until_ready()
        client.pause(client.start("more", ["a"] * 50_000, buffer_id="b").buffer_id)
        app.write_text(APP.format(version="new"))
        service.send(signal.SIGHUP)
        with Raw(journal) as raw:
            until(lambda: "more" not in raw.hello()["listeners"], "the new table is known")
        client.resume("b")
        with pytest.raises(BufferError, match="unknown target 'more'; the listeners are: work"):
            client.start("more", ["a"])
        assert client.start("work", [""]).wait(60).successful == 1
        assert client.buffer("b").status().state == "open"
        recorded = facts.recorded("b")
        app.write_text(APP.format(version="newest") + MORE)
        service.send(signal.SIGHUP)
        assert client.buffer("b").wait(60).successful == 50_000
        assert recorded < 50_000
    assert facts.failures("b") == []


@pytest.mark.slow
def test_a_client_whose_name_new_code_gives_to_a_listener_is_refused(
    journal: Path, facts: Facts, app: Path, run_log: RunLog
) -> None:
    """It is told what its hello would be told now; what it had not settled is the listener's."""
    with (
        serve(journal, app) as service,
        service.client("more") as client,
        service.client("other") as other,
    ):
        service.until_ready()
        other.send("more", "first")
        message = client.receive(60)
        app.write_text(APP.format(version="new") + MORE)
        service.send(signal.SIGHUP)
        refused = "more is a listener of the app: choose another name for the client"
        with pytest.raises(MessageRefused, match=refused):
            client.receive(60)
        with pytest.raises(MessageRefused, match=refused):
            client.send("other", "still me")
        with pytest.raises(MessageRefused, match=refused):
            client.acknowledge(message)
        with pytest.raises(MessageRefused, match=refused):
            service.client("more")
        assert other.receive(60).payload == "more", "the listener's response to the first message"
        other.send("more", "second")
        facts.until("SELECT count(*) = 2 FROM messages WHERE to_id = 'more' AND state = 'settled'")
        assert (
            facts.value("SELECT count(*) FROM messages WHERE from_id = 'more' AND payload = 'still me'") == 0
        )


@pytest.mark.slow
def test_reloading_many_times_in_a_row_ends_with_the_newest_code(
    journal: Path, facts: Facts, app: Path, run_log: RunLog
) -> None:
    with serve(journal, app) as service, service.client() as client:
        buffer = client.start("work", [""] * 3000, buffer_id="b")
        for number in range(4):
            facts.until_recorded("b", 100 * (number + 1))
            app.write_text(APP.format(version=f"v{number}"))
            os.kill(service.pid, signal.SIGHUP)
        assert buffer.wait(100).successful == 3000
        until(lambda: len(service.workers()) == 2, "only its newest workers are left")
        service.until_ready()
        client.start("work", [""] * 10, buffer_id="last").wait(60)
        assert {result.payload for result in client.buffer("last").results()} == {"v3"}
    assert facts.failures("b") == []
    assert run_log.times()[2999] >= 1


SLOW_TO_IMPORT = """
import os
import time
from pathlib import Path

from durable_bus import Bus, HandlerMetadata, HandlerResponse, Text

bus = Bus("changing")
Path("{version}.importing").touch()
while not os.path.exists("{version}.door"):
    time.sleep(0.005)


@bus.listener("pass_on")
def pass_on(text: str, metadata: HandlerMetadata) -> HandlerResponse | Text:
    return Text(text) if metadata.from_id == "work" else HandlerResponse(Text(text), to="work")


@bus.listener("work")
def work(text: str) -> str:
    return "{version}"
"""


@pytest.mark.slow
def test_code_that_was_still_being_imported_at_a_reload_works_until_the_new_is_there(
    journal: Path, facts: Facts, app: Path
) -> None:
    """It is old code by then, but what it says of its listeners is the newest that is known."""
    folder = app.parent
    app.write_text(SLOW_TO_IMPORT.format(version="old"))
    with serve(journal, app) as service:
        until((folder / "old.importing").exists, "workers import the old code")
        with service.client() as client:
            until(lambda: client.supervisor_status(60)["workers"], "the supervisor has them")
            app.write_text(SLOW_TO_IMPORT.format(version="new"))
            service.send(signal.SIGHUP)
            until((folder / "new.importing").exists, "workers import the new code")
            (folder / "old.door").touch()
            buffer = client.start("pass_on", ["x"] * 3, buffer_id="b")
            assert buffer.wait(60).successful == 3
            assert [result.payload for result in buffer.results()] == ["old"] * 3
            (folder / "new.door").touch()
            until(lambda: not client.supervisor_status(60)["workers"][0]["old_code"], "new code has come")
            client.start("work", [""], buffer_id="c").wait(60)
            assert [result.payload for result in client.buffer("c").results()] == ["new"]


RELOADS_AT_ONCE = """
import contextlib
import os
import signal
import sqlite3
from pathlib import Path

from durable_bus import Bus

bus = Bus("changing")
VERSION = "old"
if VERSION == "old":
    journal = os.environ["DURABLE_BUS_INSIDE_HANDLER"]
    begun = False
    while not begun:  # the run's row is there before the first turn
        try:
            with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
                (begun,) = connection.execute("SELECT count(*) FROM runs").fetchone()
        except sqlite3.Error:
            pass
    file = Path(__file__)
    file.write_text(file.read_text().replace('VERSION = "old"', 'VERSION = "new"'))
    os.kill(os.getppid(), signal.SIGHUP)


@bus.listener("work")
def work(text: str) -> str:
    return VERSION
"""


@pytest.mark.slow
@pytest.mark.real_start
@pytest.mark.parametrize("attempt", range(3))
def test_a_reload_before_the_first_turn_takes_no_worker_for_new_that_was_started_ahead(
    journal: Path, app: Path, attempt: int
) -> None:
    app.write_text(RELOADS_AT_ONCE)
    with Service(journal, "changing:bus", cwd=app.parent, workers=1) as service, service.client() as client:

        def runs_new_code() -> bool:
            workers = client.supervisor_status(60)["workers"]
            return bool(workers) and all(
                (one["state"], one["old_code"]) == ("ready", False) for one in workers
            )

        service.until_logged("reloading")
        until(runs_new_code, "only new code runs")
        client.start("work", [""], buffer_id="b").wait(60)
        assert [result.payload for result in client.buffer("b").results()] == ["new"]
