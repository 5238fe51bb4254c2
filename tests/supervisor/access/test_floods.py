"""How little a flood of connections, requests or answers disturbs those who also talk to the daemon."""

import random
import signal
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from services import Raw, Service, connected, stopped, works
from support import until

from durable_bus.errors import LimitExceeded
from durable_bus.journal.lock import lock_path
from durable_bus.wire.framing import encode
from durable_bus.wire.protocol import AskStatus, Watch
from durable_bus.wire.socket_file import connect_socket, socket_path

pytestmark = pytest.mark.real_start


@pytest.mark.slow
def test_a_flood_of_connections_that_say_nothing_disturbs_nobody(service: Service) -> None:
    with service.client() as client, ExitStack() as flood:
        for _ in range(300):
            flood.enter_context(Raw(service.journal))
        assert works(client)
        with service.client() as another:
            assert works(another)
        assert service.open_files() < 120
        service.until_logged("silent connections dropped")
    with service.client() as client:
        until(lambda: service.open_files() < 40, "their descriptors are closed")


@pytest.mark.slow
def test_a_flood_of_garbage_disturbs_nobody(service: Service) -> None:
    over = threading.Event()

    def pour() -> None:
        while not over.is_set():
            try:
                with Raw(service.journal) as raw:
                    raw.write(random.randbytes(50_000))
            except OSError:
                continue

    pourers = [threading.Thread(target=pour) for _ in range(4)]
    try:
        for pourer in pourers:
            pourer.start()
        with service.client() as client:
            for _ in range(50):
                assert works(client)
    finally:
        over.set()
        for pourer in pourers:
            pourer.join()


@pytest.mark.slow
def test_as_many_clients_as_there_are_places_and_the_next_is_told(journal: Path) -> None:
    with Service(journal, limits={"clients_max": 5}) as service, ExitStack() as stack:
        clients = [stack.enter_context(service.client()) for _ in range(5)]
        with pytest.raises(LimitExceeded, match="5 clients already"):
            service.client()
        assert all(works(client) for client in clients)
        with Raw(journal) as raw:
            assert raw.status()["k"] == "status"  # whoever looks why needs no place
        clients[0].close()
        with connected(journal) as another:
            assert works(another)


@pytest.mark.slow
def test_sixty_four_clients_at_once(service: Service) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(service.client()) for _ in range(64)]
        buffers = [client.start("echo", [str(number)]) for number, client in enumerate(clients)]
        for number, buffer in enumerate(buffers):
            (result,) = [buffer.wait(60), *buffer.results()][1:]
            assert result.payload == str(number)


@pytest.mark.slow
def test_who_is_too_slow_is_cut_off_and_who_sends_whole_frames_for_long_is_not(journal: Path) -> None:
    """A byte at a time, half a frame, nothing at all; against frames whose every read ends inside the
    next.
    """
    frame = encode(AskStatus("x" * 5000))
    with Service(journal, limits={"frame_timeout_s": 0.3}) as service, ExitStack() as stack:
        drip, half, silent, busy = (stack.enter_context(Raw(journal)) for _ in range(4))
        for raw in (half, busy):
            assert raw.hello()["k"] == "welcome"
        half.write(frame[:100])

        def pour_drops() -> None:
            with suppress(OSError):
                for byte in frame:
                    drip.write(bytes([byte]))
                    time.sleep(0.02)

        told: list[object] = []
        waiting = [threading.Thread(target=pour_drops)]
        waiting += [
            threading.Thread(target=lambda raw=raw: told.append(raw.until_closed()))
            for raw in (drip, half, silent)
        ]
        for thread in waiting:
            thread.start()
        busy.write(frame[:5])
        while any(thread.is_alive() for thread in waiting):
            busy.write(frame[5:] + frame[:5])
            assert busy.answer()["k"] == "status"
        busy.write(frame[5:])
        assert busy.answer()["k"] == "status"
        assert told == [[], [], []]
        service.until_logged("its frame did not come in time")


@pytest.mark.slow
def test_a_daemon_that_was_stopped_blames_nobody_for_being_late(journal: Path) -> None:
    with Service(journal, limits={"frame_timeout_s": 0.5}) as service, service.client() as client:
        with Raw(journal) as raw:
            assert raw.hello()["k"] == "welcome"
            frame = encode(AskStatus("late"))
            stopped(service.pid)
            raw.write(frame[:7])
            threading.Event().wait(1.0)  # this is what is tested: more than any frame may take
            service.send(signal.SIGCONT)
            raw.write(frame[7:])
            assert raw.answer()["k"] == "status"
        assert works(client)


@pytest.mark.slow
def test_who_does_not_read_its_answers_is_cut_off_and_costs_no_more_than_its_limit(journal: Path) -> None:
    with Service(journal, limits={"unsent_bytes_max": 200_000}) as service, service.client() as client:
        with Raw(journal) as deaf:
            assert deaf.hello()["k"] == "welcome"
            frame = encode(AskStatus("x" * 20_000))
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                for _ in range(1000):
                    deaf.write(frame)
        service.until_logged("it does not read its answers")
        assert works(client)


@pytest.mark.slow
def test_who_never_stops_sending_keeps_nobody_waiting(service: Service) -> None:
    over = threading.Event()
    frame = encode(Watch("1", "x" * 50_000))

    def pour() -> None:
        with Raw(service.journal) as raw:
            raw.hello()
            raw.socket.setblocking(False)
            while not over.is_set():
                try:
                    raw.socket.send(frame)  # and what of it was sent does not matter
                    raw.socket.recv(1 << 20)
                except BlockingIOError:
                    continue
                except OSError:
                    return

    pouring = threading.Thread(target=pour)
    pouring.start()
    try:
        with service.client() as client:
            for _ in range(20):
                assert works(client)
    finally:
        over.set()
        pouring.join()


@pytest.mark.slow
def test_a_client_reads_what_it_asked_for_while_descriptors_run_out(journal: Path) -> None:
    """A daemon that may open few files refuses the many, and serves who is there."""
    with Service(journal, workers=1) as service, service.client() as client:
        assert works(client)
        import resource

        limit = service.open_files() + 10
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (limit, limit))
        with ExitStack() as flood:
            for _ in range(40):
                flood.enter_context(Raw(journal))
            service.until_logged("cannot accept clients")
            assert works(client)
        with connected(journal) as another:
            assert works(another)


@pytest.mark.slow
def test_the_socket_is_told_by_its_journal_only(service: Service, journal: Path) -> None:
    connect_socket(socket_path(journal)).close()
    first_line, second_line, *_ = lock_path(journal).read_text().splitlines()
    assert (first_line, second_line) == (str(service.pid), "")
