"""`/live` without a server: who is told what, when, and what is left behind."""

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from durable_bus.journal.admin.changes import JournalChanges, Seen
from durable_bus.journal.connection import open_writer
from durable_bus.journal.lock import JournalLock
from durable_bus.web import live as live_module
from durable_bus.web.live import CONNECTIONS_MAX, Live

SCOPE = {"type": "http", "method": "GET", "headers": []}
WITHIN_S = 30


class Listener:
    """A browser's connection to `/live`."""

    def __init__(self, live: Live, method: str = "GET") -> None:
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._leaves = asyncio.Event()
        self.task = asyncio.create_task(live({**SCOPE, "method": method}, self._receive, self._send))  # type: ignore[arg-type]

    async def _receive(self) -> dict[str, Any]:
        await self._leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.put_nowait(message)

    async def next(self) -> dict[str, Any]:
        return await asyncio.wait_for(self.sent.get(), WITHIN_S)

    async def status(self) -> int:
        return int((await self.next())["status"])

    async def event(self) -> tuple[str, Any]:
        """The next one: its name and what it says."""
        lines = (await self.next())["body"].decode().split("\n")
        fields = dict(line.split(": ", 1) for line in lines if line)
        return fields["event"], json.loads(fields["data"])

    async def leave(self) -> None:
        self._leaves.set()
        await asyncio.wait_for(self.task, WITHIN_S)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_INTERVAL_S_MIN", 0.01)
    monkeypatch.setattr(live_module, "_INTERVAL_S_MAX", 0.01)


def run(test: Callable[[Live], Awaitable[None]], journal: Path) -> None:
    """Nothing is left behind: neither a task nor a descriptor."""

    async def checked() -> None:
        await test(Live(journal))
        await asyncio.sleep(0)
        async with asyncio.timeout(WITHIN_S):
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0.01)
            while any(str(journal) in name for name in open_files()):
                await asyncio.sleep(0.01)

    asyncio.run(checked())


def open_files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


@contextlib.asynccontextmanager
async def listening(live: Live) -> AsyncIterator[Listener]:
    listener = Listener(live)
    assert await listener.status() == 200
    yield listener
    await listener.leave()


def commit(journal: Path) -> None:
    """As a supervisor does."""
    with contextlib.closing(open_writer(journal)) as connection:
        connection.execute(
            "INSERT INTO journal_commit SELECT max(commit_id) + 1, max(run_id), max(committed_at), 0, 0 "
            "FROM journal_commit"
        )


def test_who_listens_is_told_at_once_and_of_each_change(copied: Path) -> None:
    async def test(live: Live) -> None:
        async with listening(live) as one:
            name, first = await one.event()
            assert name == "changed"
            assert not first["served"]
            async with listening(live) as two:
                assert await two.event() == ("changed", first)
                commit(copied)
                assert await one.event() == ("changed", {"commit": first["commit"] + 1, "served": False})
                assert await two.event() == ("changed", {"commit": first["commit"] + 1, "served": False})
            lock = JournalLock(copied)
            assert await one.event() == ("changed", {"commit": first["commit"] + 1, "served": True})
            lock.release()
            assert await one.event() == ("changed", {"commit": first["commit"] + 1, "served": False})

    run(test, copied)


def test_a_journal_that_vanishes_or_is_replaced_is_lost_and_found(copied: Path, tmp_path: Path) -> None:
    async def test(live: Live) -> None:
        async with listening(live) as one:
            assert (await one.event())[0] == "changed"
            away = copied.rename(tmp_path / "away.db")
            assert await one.event() == ("lost", {"reason": f"no journal at {copied}"})
            away.rename(copied)
            assert (await one.event())[0] == "changed"
            other = tmp_path / "other.db"
            other.write_bytes(copied.read_bytes())
            other.rename(copied)
            assert await one.event() == (
                "lost",
                {"reason": f"another file is in the place of the journal {copied}"},
            )
            assert (await one.event())[0] == "changed"
            copied.unlink()
            copied.write_text("no journal" * 1000)
            events = [await one.event(), await one.event()]
            assert [name for name, _ in events] == ["lost", "lost"]
            assert "is not a durable_bus journal" in events[-1][1]["reason"]

    run(test, copied)


def test_nothing_is_said_while_nothing_happens_but_that_we_are_alive(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "ALIVE_EVERY_S", 0.05)

    async def test(live: Live) -> None:
        async with listening(live) as one:
            assert (await one.event())[0] == "changed"
            for _ in range(3):
                assert (await one.next())["body"] == b": alive\n\n"

    run(test, copied)


def test_no_more_than_so_many_listen(copied: Path) -> None:
    async def test(live: Live) -> None:
        listeners = [Listener(live) for _ in range(CONNECTIONS_MAX)]
        assert {await listener.status() for listener in listeners} == {200}
        late = Listener(live)
        refused = await late.next()
        assert refused["status"] == 503
        assert dict(refused["headers"])[b"retry-after"] == b"5"
        await listeners.pop().leave()
        async with listening(live) as one:
            assert (await one.event())[0] == "changed"
        for listener in listeners:
            await listener.leave()

    run(test, copied)


def test_the_end_of_the_server_ends_all_connections(copied: Path) -> None:
    async def test(live: Live) -> None:
        one = Listener(live)
        assert await one.status() == 200
        live.end()
        await asyncio.wait_for(one.task, WITHIN_S)
        assert await Listener(live).status() == 503

    run(test, copied)


def test_a_connection_that_is_cancelled_leaves_nothing(copied: Path) -> None:
    async def test(live: Live) -> None:
        one = Listener(live)
        assert await one.status() == 200
        assert (await one.event())[0] == "changed"
        one.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one.task

    run(test, copied)


def test_a_connection_that_is_cancelled_while_the_journal_is_looked_at_leaves_nothing(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = live_module._look
    begun, goes_on, over = threading.Event(), threading.Event(), threading.Event()

    def slow_look(changes: JournalChanges) -> Seen | str:
        begun.set()
        goes_on.wait(WITHIN_S)
        try:
            return look(changes)
        finally:
            over.set()

    monkeypatch.setattr(live_module, "_look", slow_look)

    async def test(live: Live) -> None:
        one = Listener(live)
        assert await one.status() == 200
        await asyncio.to_thread(begun.wait, WITHIN_S)
        one.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one.task
        goes_on.set()
        await asyncio.to_thread(over.wait, WITHIN_S)

    run(test, copied)


def test_head_is_answered_without_events(copied: Path) -> None:
    async def test(live: Live) -> None:
        one = Listener(live, "HEAD")
        assert await one.status() == 200
        await asyncio.wait_for(one.task, WITHIN_S)

    run(test, copied)


def test_slow_pages_are_asked_for_less_often(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    live = Live(copied)
    assert live.interval_s == 1.0
    live.page_took(0.01)
    assert live.interval_s == 1.0
    for _ in range(20):
        live.page_took(0.02)
    assert live.interval_s == pytest.approx(1.2)
    live.page_took(10)
    assert live.interval_s == 1.5
    for _ in range(20):
        live.page_took(0)
    assert live.interval_s == 1.0
