"""A journal in which much has happened: crashes, a dead worker, retries, nested buffers, a cancel, a pause.

Made once by real processes; what a test asks about it, it knows from here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from apps import eventful as app
from support import Facts, kill, until

from durable_bus import Client, Text
from durable_bus.app.finding import app_spec
from durable_bus.client.embedded import open_client

CRASHES = 3
HELD = 5
HALTED = 20


@dataclass
class Story:
    """What has happened, as whoever made it happen knows."""

    journal: Path
    crashed: list[set[tuple[str, int]]] = field(default_factory=list)
    """For each crash, the (buffer, index) that were in flight."""
    supervisors: list[int] = field(default_factory=list)
    """The pid of each run's supervisor."""


@contextmanager
def supervised(journal: Path) -> Iterator[Client]:
    with open_client(app_spec(app.bus), "eventful", journal, 2, name="cli", grace_s=0.5) as client:
        yield client


def in_flight(facts: Facts) -> set[tuple[str, int]]:
    return {
        (buffer_id, index)
        for buffer_id, first, count in facts.rows("SELECT buffer_id, first_index, item_count FROM in_flight")
        for index in range(first, first + count)
    }


def texts(*lines: str) -> list[Text]:
    return [Text(line) for line in lines]


def make(journal: Path, folder: Path) -> Story:
    """Buffers that end in the first run, one that three crashes interrupt, one cancelled, one paused."""
    story = Story(journal)
    facts = Facts(journal)
    opened, never = folder / "gate", folder / "other-gate"
    with supervised(journal) as client:
        story.supervisors.append(client.supervisor_pid or 0)
        _first_run(client)
        client.start("work", texts(*[f"gate {opened}"] * HELD), buffer_id="held")
        facts.until("SELECT count(*) >= 2 FROM in_flight WHERE buffer_id = 'held'")
        story.crashed.append(_kill(client, facts))
    for _ in range(CRASHES - 1):
        with supervised(journal) as client:
            story.supervisors.append(client.supervisor_pid or 0)
            facts.until("SELECT count(*) > 0 FROM in_flight WHERE run_id = ?", len(story.supervisors))
            story.crashed.append(_kill(client, facts))
    with supervised(journal) as client:
        story.supervisors.append(client.supervisor_pid or 0)
        opened.touch()
        client.buffer("held").wait(60)
        _last_run(client, facts, never)
    return story


def _kill(client: Client, facts: Facts) -> set[tuple[str, int]]:
    assert client.supervisor_pid is not None
    kill(client.supervisor_pid)
    return in_flight(facts)


def _first_run(client: Client) -> None:
    # Alone: what else its worker holds when it dies runs more than once too.
    client.start("work", texts("fine", "die", "fine"), buffer_id="deadly").wait(60)
    buffers = [
        client.start("work", texts(*[f"fine {n}" for n in range(10)]), buffer_id="plain"),
        client.start("work", texts("flaky", "fine", "bad", "flaky"), buffer_id="failing"),
        client.start("planner", texts("nested", "nested"), buffer_id="outer"),
        client.start("forwarding", texts("fine", "slow 0.01"), buffer_id="passed-on"),
        client.start("work", texts("fine", "slow 0.2"), buffer_id="untold", collect=False),
    ]
    for buffer in buffers:
        buffer.wait(60)
    # The completions of all that collect are in our mailbox; one of them is read and settled.
    message = client.receive(timeout=60)
    client.acknowledge(message)


def _is_begun(client: Client, buffer_id: str) -> bool:
    return any(worker["buffer_id"] == buffer_id for worker in client.supervisor_status(60)["workers"])


def _last_run(client: Client, facts: Facts, never: Path) -> None:
    client.start("work", texts("fine", *[f"gate {never}"] * 4), buffer_id="stopped")
    facts.until_recorded("stopped", 1)
    facts.until("SELECT count(*) >= 2 FROM in_flight WHERE buffer_id = 'stopped'")
    client.cancel("stopped")
    never.touch()
    facts.until("SELECT count(*) = 0 FROM in_flight")
    never.unlink()
    client.retry("failing").wait(60)
    client.start("work", texts(*[f"gate {never}"] * HALTED), buffer_id="halted")
    facts.until("SELECT count(*) >= 2 FROM in_flight WHERE buffer_id = 'halted'")
    until(lambda: _is_begun(client, "halted"), "an item is begun: what only waits in a pipe is taken back")
    client.pause("halted")
    never.touch()
    facts.until("SELECT count(*) = 0 FROM in_flight")
