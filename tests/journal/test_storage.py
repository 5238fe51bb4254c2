"""A full disk refuses, loses nothing, and when there is room again everything goes on."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from apps import plain
from command_line import Ran, durable_bus, write_items
from disks import DISK_BYTES, Disk, small_disk
from services import Raw, Service
from support import Facts, RunLog, is_alive, kill, until, workers_of

from durable_bus import BufferError
from durable_bus.client.client import Client
from durable_bus.errors import StorageFull, TimedOut
from durable_bus.wire.framing import encode
from durable_bus.wire.protocol import Receive, StopReceiving


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def journal(disk: Disk) -> Path:
    return disk.folder / "journal.db"


def until_refused(client: Client) -> None:
    """Starts are refused from some moment on: the log may have room of its own for a few commits."""

    def refused() -> bool:
        try:
            client.start("echo", ["x"])
        except BufferError as error:
            return error.error == "no room on disk"
        return False

    until(refused, "starts are refused because the disk is full")


@pytest.mark.slow
def test_on_a_full_disk_starts_are_refused_and_answers_wait_until_there_is_room(
    disk: Disk, journal: Path, facts: Facts, run_log: RunLog, tmp_path: Path
) -> None:
    door = tmp_path / "door"
    with plain.bus.running(journal=journal, workers=2) as client:
        pid = client.supervisor_pid
        assert pid is not None
        buffer = client.start("gate", [str(door)] * 1_000, buffer_id="b")
        run_log.until_each_started(1, workers=2)
        workers = workers_of(pid)
        disk.fill()
        until_refused(client)
        door.touch()
        run_log.until_each_started(2, workers=2)  # so the answers to the first have left their workers
        until_refused(client)
        assert facts.recorded("b") < 1_000  # a few fit into what room the log had left
        assert is_alive(pid)
        assert workers_of(pid) == workers
        disk.empty()
        assert buffer.wait(60).successful == 1_000
        assert client.start("echo", ["again"], buffer_id="after").wait(60).successful == 1
    facts.assert_whole("b", 1_000)
    facts.assert_whole("after", 1)
    assert facts.failures("b") == []
    assert facts.rows("SELECT * FROM buffers WHERE state <> 'complete'") == []
    assert facts.rows("PRAGMA integrity_check") == [("ok",)]


def until_no_room(ask: Callable[[], object], what: str) -> None:
    """Asked again and again, it is refused from some moment on; never is nothing said at all."""

    def refused() -> bool:
        try:
            ask()
        except StorageFull as error:
            return str(error) == "no room on disk"
        except TimedOut:
            pass  # the log had room of its own
        return False

    until(refused, f"{what} is refused because the disk is full")


@pytest.mark.slow
def test_a_daemon_with_a_full_disk_answers_everybody_and_says_so(
    disk: Disk, journal: Path, facts: Facts, run_log: RunLog, tmp_path: Path
) -> None:
    """Clients that come, clients that are there, commands: each is served or refused, nobody hangs."""
    door = tmp_path / "door"

    def command(*arguments: object) -> Ran:
        return durable_bus(*arguments, "--journal", journal, cwd=tmp_path)

    def until_command_refused(*arguments: object) -> None:
        def refused() -> bool:
            ran = command(*arguments)
            return ran.code in (2, 5) and ran.error.endswith("no room on disk")

        until(refused, f"{arguments} is refused because the disk is full")

    with (
        open(tmp_path / "log", "wb") as log,
        Service(journal, workers=1, stderr=log) as service,
        service.client("alice") as alice,
        Raw(journal) as bob,
    ):
        assert bob.hello(name="bob")["k"] == "welcome"
        buffer = alice.start("gate", [str(door)] * 1_000, buffer_id="b")
        run_log.until_started(0)
        bob.write(encode(Receive("waiting")))
        bob.status()  # answered after it waits: its frames are taken in their order
        disk.fill()
        until_refused(alice)
        door.touch()
        run_log.until_started(1)  # so the answer to the first waits to be written
        until_refused(alice)

        def status() -> dict[str, Any]:
            told: dict[str, Any] = json.loads(command("status", "--json").out)["supervisor"]
            assert told["state"] == "alive"
            return told

        until(lambda: status()["storage_full"], "status says that the disk is full")
        for show in ("status", "top"):
            until(lambda show=show: "full: starts are refused" in command(show).out, f"{show} says so, too")
        with Client(journal) as client:
            assert client.supervisor_status(60)["k"] == "status"
            until_refused(client)
        until_command_refused("submit", "echo", "--items", write_items(tmp_path, "a"), "--buffer-id", "a")
        until_command_refused("send", "echo", "a")
        until_command_refused("receive", "carol", "--timeout", 3)
        until_no_room(lambda: Client(journal, name="carol").close(), "a name")
        until_no_room(lambda: alice.send("echo", "a"), "a message")
        until_no_room(lambda: alice.receive(timeout=0.1), "waiting for a message")
        until_no_room(lambda: alice.pause("b"), "a pause")
        bob.write(encode(StopReceiving("waiting")))
        assert bob.answer() == {"request": "waiting", "k": "nothing"}
        disk.empty()
        until(lambda: not status()["storage_full"], "status says that there is room again")
        alice.resume("b")
        assert buffer.wait(60).successful == 1_000
        assert alice.start("echo", ["again"], buffer_id="after").wait(60).successful == 1
        with Client(journal, name="carol") as carol:
            carol.send("bob", "here")
            bob.write(encode(Receive("again")))
            assert bob.answer()["payload"] == "here"
    assert facts.failures("b") == []
    assert facts.rows("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.slow
def test_a_buffer_that_does_not_fit_is_refused_whole_and_the_others_go_on_after(
    disk: Disk, journal: Path, facts: Facts, tmp_path: Path
) -> None:
    door = tmp_path / "door"
    with plain.bus.running(journal=journal, workers=1) as client:
        disk.ballast.write_bytes(b"x" * (DISK_BYTES // 2))
        small = client.start("gate", ["", str(door)], buffer_id="small")
        with pytest.raises(BufferError) as refused:
            client.start("echo", ("x" * 10_000 for _ in range(10_000)), buffer_id="big")
        assert str(refused.value) == "buffer big: no room on disk"  # its chunks do not say whose they are
        disk.empty()
        door.touch()
        assert small.wait(60).successful == 2
        facts.until("SELECT count(*) = 0 FROM buffers WHERE buffer_id = 'big'")
        assert client.start("echo", ["fits"], buffer_id="big").wait(60).successful == 1
    facts.assert_whole("small", 2)
    facts.assert_whole("big", 1)


@pytest.mark.slow
def test_leaving_with_a_full_disk_ends_and_the_next_start_goes_on(
    disk: Disk, journal: Path, facts: Facts, tmp_path: Path
) -> None:
    door = tmp_path / "door"
    with plain.bus.running(journal=journal, workers=1, grace=0.5) as client:
        client.start("gate", [str(door)] * 5, buffer_id="b")
        disk.fill()
        until_refused(client)
    disk.empty()
    door.touch()
    with plain.bus.running(journal=journal, workers=1) as client:
        assert client.buffer("b").wait(60).successful == 5
    facts.assert_whole("b", 5)


@pytest.mark.slow
def test_a_kill_on_a_full_disk_loses_nothing_that_was_acknowledged(
    disk: Disk, journal: Path, facts: Facts, tmp_path: Path
) -> None:
    door = tmp_path / "door"
    with plain.bus.running(journal=journal, workers=1) as client:
        client.start("gate", [str(door)] * 5, buffer_id="b")
        disk.fill()
        until_refused(client)
        door.touch()
        kill(client.supervisor_pid or 0)
    disk.empty()
    with plain.bus.running(journal=journal, workers=1) as client:
        assert client.buffer("b").wait(60).successful == 5
    facts.assert_whole("b", 5)


@pytest.mark.slow
def test_a_journal_that_has_no_room_to_begin_with_is_refused_in_one_line(disk: Disk, journal: Path) -> None:
    disk.fill()
    with pytest.raises(StorageFull, match="no room on disk") as full:
        with plain.bus.running(journal=journal, workers=1):
            pass
    assert full.value.exit_code == 5
    disk.empty()
    with plain.bus.running(journal=journal, workers=1) as client:
        assert client.start("echo", ["a"]).wait(60).successful == 1
