"""A turn takes a few frames of each client; who says more than that, or does not read, makes only itself
wait.
"""

import os
import select
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from services import Raw, Service, stopped
from turns import Turns

from durable_bus.journal.journal import Journal
from durable_bus.payloads.settings import AppSpec
from durable_bus.supervisor.config import Limits, SupervisorConfig
from durable_bus.supervisor.context import Ports
from durable_bus.supervisor.io.client_sockets import CLIENT_FRAMES_MAX, FRAMES_MAX
from durable_bus.supervisor.io.clock import SystemClock
from durable_bus.supervisor.io.worker_processes import WorkerPool
from durable_bus.supervisor.io.worker_start import WorkerStarter
from durable_bus.supervisor.loop import CLIENTS_S, Supervisor
from durable_bus.supervisor.ports import ClientClosed, ClientSpoke
from durable_bus.wire.decoding import decode_answer
from durable_bus.wire.framing import Frame, FrameReader, encode
from durable_bus.wire.ids import new_id
from durable_bus.wire.process_end import watch_end
from durable_bus.wire.protocol import AskStatus

MANY = 3 * CLIENT_FRAMES_MAX


@pytest.fixture
def turns(tmp_path: Path) -> Iterator[Turns]:
    turns = Turns(tmp_path, Limits(frame_timeout_s=10.0, unsent_bytes_pause=100_000))
    yield turns
    turns.close()


def asks(count: int, first: int = 0) -> bytes:
    frames = [encode(AskStatus(str(number))) for number in range(first, first + count)]
    return b"".join(frames)


def kept(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def test_a_turn_takes_a_few_frames_of_a_client_and_each_of_them_in_the_end(turns: Turns) -> None:
    client = turns.connect()
    client.sendall(asks(MANY))
    heard = []
    while len(heard) < MANY:
        now = [request for _, request in turns.heard(turns.turn())]
        assert len(now) <= CLIENT_FRAMES_MAX
        heard += now
        assert turns.connections.has_unread == (len(heard) < MANY)
    assert heard == kept(MANY)


def test_clients_are_heard_one_after_the_other_however_many_frames_each_has_sent(turns: Turns) -> None:
    clients = [turns.connect() for _ in range(3)]
    for client, count in zip(clients, [MANY, 1, 2], strict=True):
        client.sendall(asks(count))
    first, second, third, *rest = turns.heard(turns.turn())
    assert len({first[0], second[0], third[0]}) == 3
    assert Counter(connection_id for connection_id, _ in rest[:2]).most_common(1)[0][1] == 1


def test_a_turn_takes_so_many_frames_in_all_and_goes_on_with_who_was_not_heard(turns: Turns) -> None:
    clients = [turns.connect() for _ in range(FRAMES_MAX // CLIENT_FRAMES_MAX + 4)]
    for client in clients:
        client.sendall(asks(CLIENT_FRAMES_MAX))
    heard: list[tuple[int, str]] = []
    while turns.connections.has_unread or not heard:
        now = turns.heard(turns.turn())
        assert len(now) <= FRAMES_MAX
        heard += now
        latest = Counter(connection_id for connection_id, _ in heard).values()
        assert max(latest) - min(latest) <= 1
    assert len(heard) == len(clients) * CLIENT_FRAMES_MAX


def test_what_a_client_says_beyond_its_share_stays_in_its_socket(turns: Turns) -> None:
    client = turns.connect()
    client.setblocking(False)
    data, sent = asks(1000), 0
    room = client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    for _ in range(500):
        with suppress(BlockingIOError):
            sent += client.send(data)
        turns.poll()
    assert 0 < sent < 4 * room + 64 * 1024


def test_nothing_is_lost_of_a_client_that_goes_on_while_all_it_said_is_kept(turns: Turns) -> None:
    client = turns.connect()
    client.sendall(asks(CLIENT_FRAMES_MAX + 1))
    spoke = [event for event in turns.turn() if isinstance(event, ClientSpoke)]
    turns.connections.keep(spoke)
    client.sendall(asks(3, first=CLIENT_FRAMES_MAX + 1))
    heard: list[str] = []
    while turns.connections.has_unread or not heard:
        heard += [request for _, request in turns.heard(turns.turn())]
    assert heard == kept(CLIENT_FRAMES_MAX + 4)


def test_who_does_not_read_its_answers_is_not_heard_until_it_has(turns: Turns) -> None:
    deaf, other = turns.connect(), turns.connect()
    ((deaf_id, _),) = said_by(turns, deaf)
    turns.connections.send(deaf_id, bytes(1_000_000))
    deaf.sendall(asks(5))
    for _ in range(20):
        other.sendall(asks(1))
        assert {connection_id for connection_id, _ in turns.until_heard()} != {deaf_id}
        assert not turns.connections.has_unread
    left = 1_000_000
    heard: list[tuple[int, str]] = []
    while left:
        left -= len(deaf.recv(100_000))
        heard += turns.heard(turns.turn())
    while len(heard) < 5:
        heard += turns.heard(turns.turn())
    assert heard == [(deaf_id, request) for request in kept(5)]


def said_by(turns: Turns, client: socket.socket) -> list[tuple[int, str]]:
    client.sendall(asks(1))
    return turns.until_heard()


def test_frames_that_are_kept_come_again_before_what_their_client_says_then(turns: Turns) -> None:
    client, other = turns.connect(), turns.connect()
    client.sendall(asks(MANY))
    events = turns.turn()
    spoke = [event for event in events if isinstance(event, ClientSpoke)]
    turns.connections.keep(spoke[10:])
    other.sendall(asks(1))
    heard = [request for _, request in turns.heard([*spoke[:10]])]
    mine = spoke[0].connection_id
    while len(heard) < MANY:
        now = turns.heard(turns.turn())
        heard += [request for connection_id, request in now if connection_id == mine]
    assert heard == kept(MANY)


def test_nobody_turns_in_vain_for_a_frame_that_is_kept_and_its_client_says_little_more(turns: Turns) -> None:
    client = turns.connect()
    client.sendall(asks(MANY))
    spoke: list[ClientSpoke] = []
    for _ in range(10):
        spoke = [event for event in turns.turn() if isinstance(event, ClientSpoke)]
        assert [event.frame.header.request for event in spoke] == kept(CLIENT_FRAMES_MAX)
        turns.connections.keep(spoke)
        assert not turns.connections.has_unread
    assert [request for _, request in turns.heard(turns.turn())] == kept(CLIENT_FRAMES_MAX)
    assert turns.connections.has_unread


def test_the_end_of_the_parent_is_seen_also_while_a_frame_of_it_is_kept(turns: Turns) -> None:
    ours, theirs = socket.socketpair()
    turns.connections.add_parent(theirs, watch_end(os.getpid()))
    ours.sendall(asks(1))
    ((_, request),) = turns.until_heard()
    (spoke,) = [ClientSpoke(1, Frame(AskStatus(request), [], 0))]
    turns.connections.keep([spoke])
    ours.close()
    events: list[ClientSpoke | ClientClosed] = []
    while not any(isinstance(event, ClientClosed) for event in events):
        turns.connections.keep([event for event in events if isinstance(event, ClientSpoke)])
        events = turns.turn()
    assert [event.is_parent for event in events if isinstance(event, ClientClosed)] == [True]


def test_a_client_ends_when_the_last_thing_that_it_has_said_is_handled(turns: Turns) -> None:
    client = turns.connect()
    client.sendall(asks(MANY))
    client.close()
    seen: list[str] = []
    put_back = False
    while "end" not in seen:
        for event in turns.turn():
            if isinstance(event, ClientClosed):
                seen.append("end")
            elif event.frame.header.request == str(MANY - 1) and not put_back:
                put_back = True
                turns.connections.keep([event])
            else:
                seen.append(event.frame.header.request)
    assert seen == [*kept(MANY), "end"]


def test_who_is_not_read_from_is_not_late_with_the_rest_of_its_frame(turns: Turns) -> None:
    client = turns.connect()
    ((connection_id, _),) = said_by(turns, client)
    client.sendall(asks(2)[:-3])
    assert [request for _, request in turns.until_heard()] == ["0"]
    turns.connections.send(connection_id, bytes(1_000_000))
    for _ in range(20):
        turns.now_s += 9.0
        assert turns.turn() == []
    client.sendall(asks(2)[-3:])
    left = 1_000_000
    heard: list[tuple[int, str]] = []
    while left:
        left -= len(client.recv(100_000))
        heard += turns.heard(turns.turn())
    assert (heard or turns.until_heard()) == [(connection_id, "1")]


class SlowClock(SystemClock):
    """Whatever is done between two looks at it takes 10 ms."""

    looks = 0

    def monotonic_ns(self) -> int:
        self.looks += 1
        return self.looks * 10_000_000


def test_what_a_turn_has_no_time_for_comes_in_the_next_in_order(turns: Turns, tmp_path: Path) -> None:
    client = turns.connect()
    path = tmp_path / "journal.db"
    journal = Journal.open(path)
    supervisor = Supervisor(
        SupervisorConfig(app_name="none", pid=1, version="1", workers=0),
        journal,
        Ports(
            WorkerPool(turns.reactor, WorkerStarter(AppSpec("module", "nobody", "bus", []), path)),
            turns.connections,
            turns.reactor,
            SlowClock(),
            new_id,
            lambda event, **facts: None,
        ),
    )
    supervisor.start()
    client.sendall(asks(30))
    reader, answered, turned = FrameReader(decode_answer), [], 0
    while len(answered) < 30:
        supervisor.turn()
        turned += 1
        with suppress(BlockingIOError):
            data = client.recv(1 << 20, socket.MSG_DONTWAIT)
            answered += [frame.header.request for frame in reader.feed(data)]
    journal.close()
    assert answered == kept(30)
    assert turned >= 30 * 10 / (2 * 1000 * CLIENTS_S)


# With a daemon


def answers(raw: Raw, count: int) -> list[dict[str, int]]:
    return [raw.answer() for _ in range(count)]


@pytest.mark.slow
def test_an_honest_client_is_answered_before_the_rest_of_a_flood(journal: Path) -> None:
    """Both have said all when the daemon comes to read it, the flooding one first."""
    with Service(journal, workers=1) as service, Raw(journal) as flooding, Raw(journal) as honest:
        service.until_ready()
        for raw in (flooding, honest):
            assert raw.hello()["k"] == "welcome"
        stopped(service.pid)
        frames = [encode(AskStatus(f"{number:09}")) for number in range(100_000)]
        flooding.socket.setblocking(False)
        sent = flooding.socket.send(b"".join(frames)) // len(frames[0])
        flooding.socket.setblocking(True)
        assert sent > 10 * CLIENT_FRAMES_MAX, "or there is no flood"
        honest.write(encode(AskStatus("honest")))
        service.send(signal.SIGCONT)
        late = answers(flooding, sent)[2 * CLIENT_FRAMES_MAX]
        assert honest.answer()["now_ms"] <= late["now_ms"]


@pytest.mark.real_start
def test_a_client_that_floods_and_reads_nothing_costs_a_bounded_memory_and_only_itself(
    journal: Path,
) -> None:
    with Service(journal, workers=1) as service, service.client() as client, Raw(journal) as deaf:
        service.until_ready()
        assert deaf.hello()["k"] == "welcome"
        assert client.start("echo", ["a"] * 1000).wait(60).successful == 1000
        before_kib = service.memory_kib("VmHWM")
        frame = encode(AskStatus("x" * 20))
        deaf.socket.setblocking(False)
        reader, sent, full = FrameReader(decode_answer), 0, 0
        while full < 20:  # times that it could not be written to, after a start was acknowledged and done
            try:
                sent += deaf.socket.send(frame * 1000)
            except BlockingIOError:
                assert client.start("echo", ["a", "b"]).wait(60).successful == 2
                full = 0 if select.select([], [deaf.socket], [], 0)[1] else full + 1
        assert service.memory_kib("VmHWM") - before_kib < 30_000
        deaf.socket.setblocking(True)
        told = 0
        while told < sent // len(frame):  # whoever reads at last is told everything
            data = deaf.socket.recv(1 << 20)
            assert data, "it was cut off"
            told += sum(1 for _ in reader.feed(data))
