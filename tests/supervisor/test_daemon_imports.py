"""An app that cannot be imported is told, and the daemon tries on until its workers can import it."""

import itertools
import re
import signal
from pathlib import Path

import pytest
from command_line import command, durable_bus, status, write_items
from services import Raw, Service, connected, frame_of
from support import Facts, is_alive, until

from durable_bus.errors import BusNotImportable

pytestmark = pytest.mark.real_start

GOOD_APP = """
from durable_bus import Bus

bus = Bus("changing")


@bus.listener("echo")
def echo(text: str) -> str:
    return text
"""


@pytest.mark.slow
def test_an_app_that_cannot_be_imported_is_told_and_the_daemon_stays_up(journal: Path, facts: Facts) -> None:
    app = journal.parent / "changing.py"
    app.write_text("raise RuntimeError('not today')\n")
    with Service(journal, "changing:bus", cwd=journal.parent) as service:
        service.until_logged("cannot import", times=4)
        with service.client() as client:
            with pytest.raises(BusNotImportable, match="not today"):
                client.start("echo", ["a"])
            told = client.supervisor_status(60)
        assert "not today" in told["import_error"]
        code, out, _ = command("status", "--journal", str(journal))
        assert code == 0
        assert "cannot be imported: importing changing failed: RuntimeError: not today" in out
        assert is_alive(service.pid)
        app.write_text(GOOD_APP)
        service.send(signal.SIGHUP)
        service.until_ready()
        assert "cannot be imported" not in command("status", "--journal", str(journal))[1]
        with service.client() as client:
            assert client.start("echo", ["a"]).wait(60).successful == 1


@pytest.mark.slow
def test_how_the_app_writes_values_is_told_once_it_is_known_and_anew_after_a_reload(journal: Path) -> None:
    app, door = journal.parent / "changing.py", journal.parent / "door"
    waits = f"import os, time\nwhile not os.path.exists({str(door)!r}):\n    time.sleep(0.01)\n"
    app.write_text(waits + GOOD_APP.replace('Bus("changing")', 'Bus("changing", form="json", pickle=True)'))
    with Service(journal, "changing:bus", workers=1, cwd=journal.parent) as service, Raw(journal) as raw:
        assert (raw.hello()["k"], raw.ask("status")["import_error"]) == ("welcome", None)
        raw.write(frame_of({"k": "forms", "request": "early"}))
        with Raw(journal) as another:
            assert another.status()["k"] == "status", "who asks nothing about the app does not wait for it"
        door.touch()
        told = raw.answer()
        assert (told["k"], told["request"]) == ("app_forms", "early")
        assert told["forms"] == {"form": "json", "pickle": True}
        with Raw(journal) as late:
            assert late.hello()["forms"] == told["forms"]
        app.write_text(GOOD_APP)
        service.send(signal.SIGHUP)
        until(lambda: raw.ask("forms")["forms"] != told["forms"], "the forms of the new code")
        assert raw.ask("forms")["k"] == "app_forms"


@pytest.mark.slow
def test_nobody_says_how_an_app_writes_values_that_cannot_be_imported(journal: Path) -> None:
    (journal.parent / "changing.py").write_text("raise RuntimeError('not today')\n")
    with Service(journal, "changing:bus", workers=1, cwd=journal.parent), Raw(journal) as raw:
        assert raw.hello()["k"] == "welcome"
        told = raw.ask("forms")
        assert (told["k"], told["type"]) == ("error", BusNotImportable.__name__)
        assert "not today" in told["message"]


@pytest.mark.slow
def test_workers_that_die_in_boot_are_tried_again_less_and_less_often(journal: Path) -> None:
    (journal.parent / "dying.py").write_text("import os\n\nos._exit(7)\n")
    with Service(journal, "dying:bus", workers=1, cwd=journal.parent) as service:
        service.until_logged("worker ended", times=5)
    at = [
        int(minute) * 60 + float(second)
        for minute, second in re.findall(r":(\d\d):([\d.]+)Z worker ended", service.log())
    ]
    waits = [(later - earlier) % 3600 for earlier, later in itertools.pairwise(at)]
    assert waits[2] >= 0.5
    assert waits[3] >= 1.0
    assert 'reason="worker exited with code 7"' in service.log()


DEATHS_IN_IMPORT = [
    ("import ctypes\n\nctypes.string_at(0)\n", "killed by SIGSEGV"),
    ("import os\n\nos._exit(3)\n", "exited with code 3"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("code", "how"), DEATHS_IN_IMPORT)
def test_an_app_that_ends_its_workers_while_it_is_imported_is_told(
    journal: Path, code: str, how: str
) -> None:
    """No worker says why: how they ended is what is known. The daemon tries on, until one lives."""
    app = journal.parent / "dying.py"
    app.write_text(code)
    with Service(journal, "dying:bus", cwd=journal.parent) as service:
        with service.client() as client:
            with pytest.raises(BusNotImportable, match=f"a worker died while it imported the app: {how}"):
                client.start("echo", ["a"])
            assert how in client.supervisor_status(60)["import_error"]
        assert how in status(journal)["run"]["worker_error"]
        assert is_alive(service.pid)
        service.until_logged("worker ended", times=4)
        app.write_text(GOOD_APP)
        service.until_ready()
        assert status(journal)["run"]["worker_error"] is None
        with service.client() as client:
            assert client.supervisor_status(60)["import_error"] is None
            assert client.start("echo", ["a"]).wait(60).successful == 1


@pytest.mark.slow
@pytest.mark.parametrize(("code", "how"), DEATHS_IN_IMPORT)
def test_a_run_of_an_app_that_ends_its_workers_ends_in_one_line(tmp_path: Path, code: str, how: str) -> None:
    (tmp_path / "dying.py").write_text(code)
    items = write_items(tmp_path, "a")
    ran = durable_bus("run", "dying:bus", "echo", "--items", items, "--workers", 1, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.error.endswith(f"a worker died while it imported the app: {how}")


@pytest.mark.slow
def test_an_import_that_hangs_is_told_as_one_that_fails(journal: Path) -> None:
    (journal.parent / "hanging.py").write_text("import time\n\ntime.sleep(3600)\n")
    with Service(journal, "hanging:bus", cwd=journal.parent, boot_timeout_s=0.5) as service:
        with service.client() as client:
            with pytest.raises(BusNotImportable, match=r"a worker had not imported the app after 0\.5 s"):
                client.start("echo", ["a"])
        assert "had not imported" in status(journal)["run"]["worker_error"]
        assert is_alive(service.pid)


@pytest.mark.slow
def test_buffers_can_be_cancelled_and_paused_while_the_app_cannot_be_imported(
    journal: Path, facts: Facts
) -> None:
    app = journal.parent / "changing.py"
    app.write_text(GOOD_APP)
    with Service(journal, "changing:bus", cwd=journal.parent) as service:
        with service.client() as client:
            client.pause(client.start("echo", ["a"] * 100_000, buffer_id="b").buffer_id)
        app.write_text("broken\n")
        service.restart()
        service.until_logged("cannot import")
        with connected(journal) as client:
            assert client.pause("b") == "open"
            assert client.cancel("b") == "cancelled"
    assert facts.value("SELECT state FROM buffers") == "cancelled"
