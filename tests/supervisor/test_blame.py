"""Who is charged when a worker ends. The rules that a test of processes cannot time."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support import Facts

from durable_bus.errors import WorkerKilled, WorkerSilent
from durable_bus.journal.journal import Journal
from durable_bus.payloads.settings import AppSpec, ListenerSettings
from durable_bus.supervisor.io.client_sockets import SocketConnections
from durable_bus.supervisor.io.clock import SystemClock
from durable_bus.supervisor.io.reactor import SelectorReactor
from durable_bus.supervisor.io.worker_processes import WorkerPool
from durable_bus.supervisor.loop import Supervisor, SupervisorConfig
from durable_bus.supervisor.ports import WorkerEnded
from durable_bus.supervisor.scheduling.leases import Hand
from durable_bus.supervisor.scheduling.timeouts import Late
from durable_bus.wire.ids import new_id

LISTENERS = {"work": ListenerSettings("work", 1.0, 1, 1.0, concurrency=4, is_async=True, peers=None)}


@pytest.fixture
def supervisor(journal: Path) -> Iterator[Supervisor]:
    """One worker has begun both items of a buffer, and none of it has run: it is what the test says."""
    reactor = SelectorReactor()
    with closing(Journal.open(journal)) as opened:
        supervisor = Supervisor(
            SupervisorConfig(app_name="none", pid=1, version="1", workers=0),
            opened,
            WorkerPool(reactor, AppSpec("module", "nobody", "bus"), journal),
            SocketConnections(reactor, lambda: 0.0),
            reactor,
            SystemClock(),
            new_id,
            lambda event, **facts: None,
        )
        supervisor.start()
        supervisor.workforce.listeners = LISTENERS
        columns = {"buffer_id": "b", "target": "work", "return_to": "", "from_id": "cli", "thread_id": "t/b"}
        columns |= {"starter_thread_id": "t", "request_id": "b", "retry_of": None, "digest": "d"}
        with opened.commit(1):
            row = opened.buffers.add_whole([b"0", b"1"], 0, [], collect=True, **columns)
            supervisor.registry.create(row)
            supervisor.dispatcher.hands[1] = Hand(1, 1, listeners=LISTENERS, is_async=True)
            supervisor.dispatcher.plan(1, lambda worker_id: 0)
        supervisor.dispatcher.commit()
        yield supervisor


@pytest.mark.parametrize(("current", "charged"), [(0, []), (1, [0]), (2, [])])
def test_who_is_late_is_charged_only_if_it_was_still_its_step_when_the_kill_came(
    supervisor: Supervisor, facts: Facts, current: int, charged: list[int]
) -> None:
    """Item 0 was late when it was looked at. By the kill its step may be over, and another one's begun."""
    assert sum(held.item_count for held in supervisor.dispatcher.in_hand.values()) == 2
    supervisor.lateness.late[1] = Late(WorkerSilent(1.0), 0)
    with supervisor._journal.commit(2):
        supervisor.worker_events.ended(WorkerEnded(1, WorkerKilled(9), 2, current), stopping=False)
    assert [index for index, *_ in facts.failures("b")] == charged
