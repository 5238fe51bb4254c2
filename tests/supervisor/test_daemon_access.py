"""Who may talk to a daemon, through what, and how little a stranger, a flood or garbage disturbs the
others.
"""

import os
import random
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from services import NOBODY, Raw, Service, as_nobody, connected, frame_of, start_as_nobody, stopped
from support import Facts, until

from durable_bus import __version__
from durable_bus.client.client import Client
from durable_bus.errors import JournalUnreachable, LimitExceeded, VersionMismatch
from durable_bus.journal.lock import lock_path
from durable_bus.wire.framing import FRAME_BYTES_MAX, encode
from durable_bus.wire.protocol import AskStatus, Watch
from durable_bus.wire.socket_file import connect_socket, socket_path

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a moment")


@pytest.fixture
def service(journal: Path) -> Iterator[Service]:
    with Service(journal) as service:
        yield service


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can look into; pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="durable_bus-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def unmoved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One daemon for all that must leave no trace in it."""
    with Service(tmp_path_factory.mktemp("unmoved") / "journal.db") as service:
        yield service


def works(client: Client) -> bool:
    return client.start("echo", ["a", "b"]).wait(60).successful == 2


def refused(journal: Path, **options: Any) -> str:
    """Why a daemon does not start: one line, exit code 5."""
    service = Service(journal, **options)
    assert service.process.wait(60) == 5
    (line,) = service.log().splitlines()
    service.log_path.unlink()
    return line


# Files


@pytest.mark.slow
def test_socket_lock_and_journal_are_their_owners_alone(journal: Path) -> None:
    before = os.umask(0)
    try:
        with Service(journal) as service, service.client() as client:
            assert works(client)
            modes = {
                path.name: stat.S_IMODE(path.stat().st_mode)
                for path in journal.parent.iterdir()
                if path.name.startswith("journal.db")
            }
    finally:
        os.umask(before)
    assert {"journal.db", "journal.db.lock", "journal.db.sock", "journal.db-wal"} <= modes.keys()
    assert set(modes.values()) == {0o600}


@pytest.mark.slow
def test_a_folder_that_everybody_may_write_to_is_refused(journal: Path) -> None:
    journal.parent.chmod(0o777)
    assert "everybody may write to the folder" in refused(journal)
    assert not journal.exists()
    journal.parent.chmod(0o1777)  # like /tmp: nobody can take away what is another's
    with Service(journal) as service, service.client() as client:
        assert works(client)


@as_root
@pytest.mark.parametrize("name", ["", "journal.db", "journal.db.lock", "journal.db.sock"])
def test_a_folder_or_file_of_another_user_is_refused(journal: Path, name: str) -> None:
    path = journal.parent / name
    if name:
        path.write_text("")
    os.chown(path, NOBODY, NOBODY)
    assert f"belongs to another user (uid {NOBODY})" in refused(journal)
    os.chown(path, 0, 0)


SERVE = """
config = daemon.DaemonConfig(
    journal=daemon.Path(sys.argv[1]), app=finding.parse_spec("apps.plain:bus"), app_name="plain", workers=1
)
try:
    daemon.supervise(config, None)
except errors.DurableBusError as error:
    print(type(error).__name__, error.exit_code, error)
"""


@as_root
def test_an_unwritable_folder_is_one_clear_line(open_folder: Path) -> None:
    out = as_nobody(SERVE, str(open_folder / "journal.db"))
    assert out.startswith("JournalUnreachable 5 cannot open the lock")
    assert out.count("\n") == 1
    assert list(open_folder.iterdir()) == []


@pytest.mark.parametrize("planted", [lock_path, socket_path])
def test_a_symbolic_link_planted_at_lock_or_socket_is_not_followed(
    journal: Path, tmp_path: Path, planted: Any
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    planted(journal).symlink_to(victim)
    assert str(planted(journal)) in refused(journal)
    assert victim.read_text() == "precious"
    assert planted(journal).is_symlink()


def test_a_symbolic_link_to_another_socket_is_neither_followed_nor_removed(
    journal: Path, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        other.listen()
        socket_path(journal).symlink_to(tmp_path / "other")
        with pytest.raises(JournalUnreachable):
            Client(journal)
        assert "is in the way of the daemon's socket" in refused(journal)
    assert (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_file_or_folder_in_the_sockets_place_is_refused(journal: Path) -> None:
    socket_path(journal).write_text("precious")
    assert "is in the way of the daemon's socket" in refused(journal)
    assert socket_path(journal).read_text() == "precious"
    socket_path(journal).unlink()
    socket_path(journal).mkdir()
    assert "is in the way of the daemon's socket" in refused(journal)


@pytest.mark.slow
def test_a_stale_socket_is_replaced(journal: Path) -> None:
    with Service(journal) as service:
        service.kill()
        assert socket_path(journal).is_socket()
        with pytest.raises(JournalUnreachable, match="no daemon serves"):
            service.client()
        service.process = service.spawn()
        with connected(journal) as client:
            assert works(client)


def test_a_daemon_that_ends_before_it_answers_is_nobody(journal: Path) -> None:
    """Such as one that was killed while a child of it, not yet another program, still held its socket."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(socket_path(journal)))
        listening.listen()
        hanging_up = threading.Thread(target=lambda: listening.accept()[0].close())
        hanging_up.start()
        with pytest.raises(JournalUnreachable, match=r"no daemon serves .* ended before it answered"):
            Client(journal)
        hanging_up.join()


# Names


@pytest.mark.slow
def test_a_folder_too_deep_for_a_socket_serves_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30) / ("deeper" * 20)
    folder.mkdir(parents=True)
    with Service(folder / "journal.db") as service, service.client() as client:
        assert len(str(socket_path(service.journal))) > 250
        assert works(client)


@pytest.mark.slow
def test_a_name_too_long_for_a_socket_serves_all_the_same(tmp_path: Path) -> None:
    journal = tmp_path / ("n" * 200)
    with Service(journal) as service, service.client() as client:
        assert works(client)
        assert socket_path(journal).is_socket()
        assert stat.S_IMODE(socket_path(journal).stat().st_mode) == 0o600
        assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_clients_find_a_socket_that_lies_elsewhere(journal: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "run"
    elsewhere.mkdir()
    with Service(journal, socket=str(elsewhere / "bus.sock")) as service, service.client() as client:
        assert works(client)
        assert not socket_path(journal).exists()
        service.kill()
        service.process = Service(journal).process  # beside the journal again
        assert works(client)


@pytest.mark.slow
def test_a_socket_in_a_folder_that_is_not_there_is_one_clear_line(journal: Path, tmp_path: Path) -> None:
    assert "No such file or directory" in refused(journal, socket=str(tmp_path / "nowhere" / "s"))
    assert "everybody may write" in refused(journal, socket=str(public(tmp_path / "public") / "s"))


def public(folder: Path) -> Path:
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.mark.slow
def test_by_any_name_of_the_journal_it_is_one_daemon(service: Service, journal: Path, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(journal)
    with Client(tmp_path / "link.db") as client:
        assert works(client)


# Users

CONNECT = """
with socket.socket(socket.AF_UNIX) as connection:
    try:
        connection.connect(sys.argv[1])
        print(connection.recv(65536).decode(errors="replace"))
    except OSError as error:
        print(error)
"""


@pytest.mark.slow
@as_root
def test_another_user_is_kept_out_by_the_mode_and_told_off_by_the_uid(open_folder: Path) -> None:
    with Service(open_folder / "journal.db") as service, service.client() as client:
        path = socket_path(service.journal)
        assert "Permission denied" in as_nobody(CONNECT, str(path))
        path.chmod(0o666)
        assert "this daemon belongs to another user (uid 0)" in as_nobody(CONNECT, str(path))
        service.until_logged(f"client refused uid={NOBODY}")
        assert works(client)


PLANT = """
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
os.chmod(sys.argv[1], 0o666)
while True:
    listener.accept()
"""


@pytest.mark.slow
@as_root
def test_a_socket_that_another_user_has_planted_is_not_spoken_to(open_folder: Path) -> None:
    journal = open_folder / "journal.db"
    with Service(journal):
        pass  # the journal is ours
    open_folder.chmod(0o1777)
    with start_as_nobody(PLANT, str(socket_path(journal))) as planter:
        try:
            until(lambda: socket_path(journal).exists(), "it is planted")
            until(lambda: "belongs to another user" in why_not(journal), "it is not spoken to")
        finally:
            planter.kill()


def why_not(journal: Path) -> str:
    with pytest.raises(JournalUnreachable) as refused:
        Client(journal)
    return str(refused.value)


# Garbage

NESTED = b'{"k":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a length over every limit": b"\xff\xff\xff\xff",
    "a first frame over its limit": frame_of(b"x" * 70_000),
    "not UTF-8": frame_of(b"\xff\xfe"),
    "not JSON": frame_of(b"{"),
    "no object": frame_of(b"[]"),
    "nothing": b"\x00\x00\x00\x00",
    "parts longer than their frame": b"\x00\x00\x00\x06\x00\x00\xff\xff{}",
    "an empty header": frame_of(b""),
    "nested deeply": frame_of(b'{"k":' + b"[" * 20_000),
    "not a number": frame_of(b'{"k":"hello","request":"1","version":NaN}'),
    "half a surrogate pair": frame_of(b'{"k":"hello","request":"\\ud800","version":"x"}'),
    "no hello": frame_of(b'{"k":"start","request":"1"}'),
    "random": random.Random(1).randbytes(100_000),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_ends_its_own_connection_with_one_word_and_nothing_else(unmoved: Service, what: str) -> None:
    with unmoved.client() as client:
        with Raw(unmoved.journal) as raw:
            raw.write(GARBAGE[what])
            told = raw.until_closed()
        assert [header["k"] for header in told] == ["error"]
        assert works(client)
    unmoved.until_logged("client cut off")


@pytest.mark.slow
def test_garbage_after_a_hello_ends_the_connection_too(service: Service) -> None:
    for garbage in (
        b"\xff\xff\xff\xff",
        (FRAME_BYTES_MAX + 1).to_bytes(4, "big"),
        frame_of(NESTED),
        frame_of(b"{"),
    ):
        with Raw(service.journal) as raw:
            assert raw.hello()["k"] == "welcome"
            raw.write(garbage)
            (told,) = raw.until_closed()
            assert told["k"] == "error"
    with service.client() as client:
        assert works(client)


def test_another_version_is_refused_and_nothing_it_asks_is_done(service: Service, facts: Facts) -> None:
    with Raw(service.journal) as raw:
        assert raw.hello(version="0.0.0")["type"] == VersionMismatch.__name__
        asked = raw.ask("start", buffer_id="b", target="echo", collect=True)
        assert (asked["k"], asked["message"]) == ("error", "say hello first")
    assert facts.rows("SELECT * FROM buffers") == []


WEIRD: list[object] = [
    None, True, -1, 0, 1.5, 10**30, "", "x", "\x00", "é" * 300,
    [], [1], [[]], {}, {"a": 1},
    "system.x", "buffer_x",
]  # fmt: skip
REQUESTS: dict[str, list[str]] = {
    "hello": ["version", "name", "needs_app", "journal"],
    "submit": [
        "buffer_id",
        "target",
        "collect",
        "return_to",
        "retry_of",
        "count",
        "form",
        "exceptions",
        "digest",
    ],
    "start": ["buffer_id", "target", "collect", "return_to", "retry_of"],
    "chunk": ["number", "count", "form", "exceptions"],
    "open": ["total", "digest"],
    "abandon": [],
    "watch": ["buffer_id"],
    "cancel": ["buffer_id"],
    "pause": ["buffer_id"],
    "resume": ["buffer_id"],
    "prune": ["before_ms", "after"],
    "status": [],
    "send": ["to", "payload", "is_xml"],
    "receive": [],
    "stop_receiving": [],
    "abandon_receiving": [],
    "respond": ["message_id", "payload", "is_xml", "success"],
    "acknowledge": ["message_id"],
    "nonsense": ["k"],
}
BODIES = [b"", b"\0", b"a\0", b"a", b"\0\0", b"a\0b", b"\xff\0", b"\xed\xa0\x80\0", b"x" * 70_000 + b"\0"]


@pytest.mark.slow
def test_malformed_requests_are_refused_and_the_daemon_goes_on(service: Service, facts: Facts) -> None:
    """Every field of every request, with every kind of value that it should not have."""
    rng = random.Random(20261123)
    good = {
        "version": "?",
        "buffer_id": "b",
        "target": "echo",
        "collect": True,
        "number": 0,
        "count": 1,
        "form": 0,
    }
    good |= {
        "exceptions": [],
        "total": 1,
        "digest": "d",
        "before_ms": 0,
        "to": "echo",
        "payload": "x",
        "is_xml": False,
        "message_id": "m",
        "success": True,
    }  # type: ignore[dict-item]
    with Raw(service.journal) as raw, service.client() as client:
        raw.hello(name="fuzz")
        for round_number in range(25):
            for kind, fields in REQUESTS.items():
                for field in [*fields, "request"]:
                    request: dict[str, Any] = {"k": kind, "request": f"{round_number % 3}"}
                    request |= {name: good[name] for name in fields if name in good}
                    request[field] = rng.choice(WEIRD)
                    if rng.random() < 0.1:
                        del request[field]
                    bodies = rng.choices(BODIES, k=rng.choice([0, 1, 1, 1, 2]))
                    raw.write(frame_of(request, *bodies))
            told = raw.ask("status")
            while told["k"] != "status":
                told = raw.answer()
        assert works(client)
    assert facts.value("SELECT count(*) FROM runs") == 1
    assert "Traceback" not in service.log()


TEXT = [None, True, 5, 1.5, ["x"], {"x": 1}]
NUMBER = [None, True, 1.5, "1", [1], {"x": 1}]
FLAG = [None, 1, "true", [True], {"x": 1}]
NUMBERS = [1, "1", {"x": 1}, [True], [0.5], ["1"], [None]]
OF_A_START: dict[str, Any] = {
    "buffer_id": "b",
    "target": "echo",
    "collect": True,
    "return_to": "",
    "retry_of": None,
}
OF_A_CHUNK: dict[str, Any] = {"count": 1, "form": 0, "exceptions": []}
RIGHT: dict[str, dict[str, Any]] = {
    "hello": {"version": __version__, "needs_app": False},
    "submit": {**OF_A_START, **OF_A_CHUNK, "digest": "d"},
    "start": OF_A_START,
    "chunk": {"number": 0, **OF_A_CHUNK},
    "open": {"total": 1, "digest": "d"},
    "abandon": {},
    "watch": {"buffer_id": "b"},
    "cancel": {"buffer_id": "b"},
    "pause": {"buffer_id": "b"},
    "resume": {"buffer_id": "b"},
    "prune": {"before_ms": 0, "after": [0, 0]},
    "status": {},
    "send": {"to": "echo", "payload": "x", "is_xml": False},
    "receive": {},
    "stop_receiving": {},
    "respond": {"message_id": "m", "payload": "x", "is_xml": False, "success": True},
    "acknowledge": {"message_id": "m"},
    "stop": {},
}
WRONG: dict[str, list[Any]] = {
    **dict.fromkeys(["request", "buffer_id", "target", "digest", "to", "message_id", "payload"], TEXT),
    **dict.fromkeys(["return_to", "retry_of"], TEXT[1:]),
    **dict.fromkeys(["collect", "is_xml", "needs_app"], FLAG),
    **dict.fromkeys(["total", "number", "count", "form", "before_ms"], NUMBER),
    "exceptions": [None, *NUMBERS],
    "after": NUMBERS,
}


def test_a_hello_of_another_version_is_told_so_whatever_else_it_says(service: Service) -> None:
    with Raw(service.journal) as raw:
        told = raw.hello(version="9.9", needs_app="maybe", colour="blue")
        assert (told["type"], "9.9" in told["message"]) == (VersionMismatch.__name__, True)
        told = raw.hello(colour="blue")
        assert (told["type"], told["message"]) == ("UsageError", "Object contains unknown field `colour`")
        assert raw.hello()["k"] == "welcome", "and is no reason to hang up"


@pytest.mark.slow
def test_a_field_of_another_type_is_refused_by_its_name_and_ends_nothing(
    service: Service, facts: Facts
) -> None:
    """A buffer_id of 5 was text in the journal and a number in its BufferComplete, which ended the daemon."""
    with Raw(service.journal) as raw, service.client() as client:
        raw.hello(name="wrong")
        wrong = [
            (kind, field, value)
            for kind, right in RIGHT.items()
            for field in ("request", *right)
            for value in WRONG.get(field, ())
        ]
        for kind, field, value in wrong:
            told = raw.ask(kind, b"x\0", **{**RIGHT[kind], field: value})
            assert (told["k"], told.get("type")) == ("error", "UsageError"), (kind, field, value)
            assert told["message"].startswith("Expected `"), (kind, field, value)
            assert f" at `$.{field}" in told["message"], (kind, field, value)
        assert facts.rows("SELECT buffer_id FROM buffers") == facts.rows("SELECT * FROM messages") == []
        assert works(client)
    assert facts.value("SELECT count(*) FROM runs") == 1


# Floods


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
