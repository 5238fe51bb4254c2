"""Client and Buffer: what they take, what they refuse, what they give."""

import fcntl
import gc
import os
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest
from apps import collecting, plain
from daemons import Daemon, client_of
from lxml import etree
from support import PATIENCE_S, Facts, RunLog, environment, kill, outcome, program, until, until_gone

from durable_bus import BufferError, Result, Text, Xml
from durable_bus.app.bus import Bus
from durable_bus.app.finding import app_spec
from durable_bus.client import connection as link
from durable_bus.client.client import Client
from durable_bus.client.embedded import open_client, running
from durable_bus.client.upload import BATCH_ITEMS
from durable_bus.errors import BusNotImportable, LimitExceeded, NotFound, SupervisorLost, TimedOut, UsageError


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with plain.bus.running(journal=tmp_path_factory.mktemp("client") / "journal.db", workers=2) as client:
        yield client


@pytest.fixture
def facts(client: Client) -> Facts:
    return Facts(client.journal)


def untouched(client: Client) -> list[tuple[object, ...]]:
    """What a refused start must leave as it was, once all that was asked for before is on disk."""
    client.start("echo", ["round trip"], buffer_id="round-trip").wait(60)
    facts = Facts(client.journal)
    return facts.rows("SELECT buffer_id, state, total FROM buffers ORDER BY buffer_id")


# Following


def test_wait_says_how_many_succeeded_and_reads_results_only_when_asked(client: Client) -> None:
    complete = client.start("echo", ["a", "<b/>"], buffer_id="wait").wait(60)
    assert (complete.buffer_id, complete.total, complete.successful) == ("wait", 2, 2)
    assert "results" not in vars(complete)
    assert complete.results == (
        '<results><item index="0" success="true">a</item><item index="1" success="true"><b/></item></results>'
    )
    assert complete == client.buffer("wait").wait(60)


def test_results_are_in_item_order_and_whole_results(client: Client) -> None:
    buffer = client.start("echo", (f"item {index}" for index in range(12_000)))
    buffer.wait(60)
    results = list(buffer.results())
    assert [(result.index, result.payload) for result in results] == [(i, f"item {i}") for i in range(12_000)]
    first = results[0]
    assert isinstance(first, Result)
    assert (first.success, first.is_xml, first.error, first.attempt) == (True, False, None, 1)
    assert all(result.duration_ms > 0 for result in results)


def test_as_completed_gives_each_result_once_while_others_still_run(client: Client, tmp_path: Path) -> None:
    door = tmp_path / "door"
    buffer = client.start("gate", [str(door), *[""] * 50])
    arriving = buffer.as_completed(60)
    early = list(islice(arriving, 50))
    assert 0 not in {result.index for result in early}
    assert buffer.status().pending == 1
    door.touch()
    assert [result.index for result in arriving] == [0]
    assert sorted(result.index for result in buffer.as_completed(60)) == list(range(51))


@pytest.mark.slow
def test_as_completed_ends_with_the_buffer_however_close_its_last_result_comes(client: Client) -> None:
    for _ in range(100):
        assert len(list(client.start("echo", ["a"]).as_completed(60))) == 1


def test_a_buffer_can_be_followed_by_many_at_once_any_number_of_times(client: Client) -> None:
    buffer = client.start("sleep", ["0.001"] * 300)
    seen: list[int] = []

    def follow() -> None:
        other = client.buffer(buffer.buffer_id)
        seen.append(sum(1 for _ in other.as_completed(60)))
        seen.append(other.wait(60).total)
        seen.append(sum(1 for _ in other.results()))

    threads = [threading.Thread(target=follow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [300] * 12


def test_status_counts_while_it_runs_and_after(client: Client, facts: Facts, tmp_path: Path) -> None:
    door = tmp_path / "door"
    buffer = client.start("gate", ["", str(door), ""], buffer_id="status")
    facts.until_recorded("status", 2)
    status = buffer.status()
    assert (status.state, status.total, status.completed, status.pending) == ("open", 3, 2, 1)
    door.touch()
    buffer.wait(60)
    status = buffer.status()
    assert (status.state, status.successful, status.failed, status.pending) == ("complete", 3, 0, 0)


def test_results_of_an_open_buffer_are_those_recorded_so_far(client: Client, tmp_path: Path) -> None:
    door = tmp_path / "door"
    buffer = client.start("gate", [str(door), ""])
    Facts(client.journal).until_recorded(buffer.buffer_id, 1)
    assert [result.index for result in buffer.results()] == [1]
    door.touch()
    buffer.wait(60)


def test_results_can_be_read_on_after_the_client_was_closed(journal: Path) -> None:
    """Following needs only the journal."""
    with running(plain.bus, journal=journal, workers=1) as client:
        buffer = client.start("echo", map(str, range(10_000)))
        buffer.wait(60)
        unread, half_read = buffer.results(), buffer.results()
        first = [result.payload for result in islice(half_read, 5_000)]
    whole = [str(index) for index in range(10_000)]
    assert [*first, *(result.payload for result in half_read)] == whole
    assert [result.payload for result in unread] == whole
    client.close()


def test_what_is_read_after_the_end_leaves_nothing_open_when_the_client_is_forgotten(journal: Path) -> None:
    with running(plain.bus, journal=journal, workers=1) as client:
        complete = client.start("echo", ["a"], buffer_id="b").wait(60)
    assert complete.results  # read now
    reader = client.reader()
    assert not reader.closed
    del client, complete
    gc.collect()
    assert reader.closed


def test_waiting_times_out_and_what_it_waited_for_goes_on(client: Client, tmp_path: Path) -> None:
    door = tmp_path / "door"
    buffer = client.start("gate", [str(door)])
    with pytest.raises(TimedOut) as late:
        buffer.wait(0.05)
    assert late.value.exit_code == 6
    with pytest.raises(TimedOut):
        list(buffer.as_completed(0.05))
    door.touch()
    assert buffer.wait(60).successful == 1


@pytest.mark.parametrize("timeout", [1e12, float("inf")])
def test_waiting_may_take_all_the_time_there_is(client: Client, tmp_path: Path, timeout: float) -> None:
    door = tmp_path / "door"
    buffer = client.start("gate", [str(door), ""])
    arriving = buffer.as_completed(timeout)
    assert next(arriving).index == 1
    door.touch()
    assert buffer.wait(timeout).successful == 2
    assert [result.index for result in arriving] == [0]


def test_waiting_for_a_time_that_is_no_number_is_refused(client: Client) -> None:
    buffer = client.start("echo", ["a"])
    for waiting in (buffer.wait, lambda timeout: list(buffer.as_completed(timeout))):
        with pytest.raises(UsageError, match="timeout=nan is no number of seconds"):
            waiting(float("nan"))


def test_a_buffer_nobody_started_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound) as missing:
        client.buffer("nobody")
    assert missing.value.exit_code == 3


def test_a_buffer_without_collect_has_results_and_sends_no_completion(client: Client, facts: Facts) -> None:
    buffer = client.start("echo", ["a"], buffer_id="quiet", collect=False)
    assert buffer.wait(60).successful == 1
    assert [result.payload for result in buffer.results()] == ["a"]
    assert facts.value("SELECT count(*) FROM messages WHERE message_id = 'quiet/complete'") == 0


# The same id again


def test_the_same_id_with_the_same_content_is_the_buffer_that_exists(client: Client, tmp_path: Path) -> None:
    items = ["a", Text("<b"), Xml("<c/>"), *map(str, range(9_000))]
    first = client.start("echo", items, buffer_id="same")
    first.wait(60)
    again = client.start("echo", iter(items), buffer_id="same")
    assert (first.existed, again.existed) == (False, True)
    assert again.wait(60).total == len(items)
    door = tmp_path / "door"
    running = client.start("gate", [str(door)], buffer_id="same-open")
    assert client.start("gate", [str(door)], buffer_id="same-open").existed
    door.touch()
    running.wait(60)


OTHER = {
    "an item more": ("echo", ["a", "b", "c"], {}),
    "an item less": ("echo", ["a"], {}),
    "another order": ("echo", ["b", "a"], {}),
    "another form": ("echo", [Text("a"), Xml("b")], {}),
    "other cuts between items": ("echo", ["ab", ""], {}),
    "no items": ("echo", [], {}),
    "another target": ("describe", ["a", "b"], {}),
    "another collect": ("echo", ["a", "b"], {"collect": False}),
}


@pytest.mark.parametrize("other", OTHER)
def test_the_same_id_with_other_content_is_refused_and_changes_nothing(client: Client, other: str) -> None:
    client.start("echo", ["a", "b"], buffer_id="taken").wait(60)
    before = untouched(client)
    target, items, options = OTHER[other]
    with pytest.raises(BufferError, match="this id is used already") as refused:
        client.start(target, items, buffer_id="taken", **options)
    assert (refused.value.buffer_id, refused.value.exit_code) == ("taken", 2)
    assert untouched(client) == before
    assert [result.payload for result in client.buffer("taken").results()] == ["a", "b"]


# What is refused


def test_an_unknown_target_is_refused_with_the_names_that_are_known(client: Client) -> None:
    before = untouched(client)
    with pytest.raises(BufferError, match="unknown target 'nobody'; the listeners are: describe, echo, gate"):
        client.start("nobody", ["a"])
    assert untouched(client) == before


def test_no_items_are_refused(client: Client) -> None:
    before = untouched(client)
    with pytest.raises(BufferError, match="No items specified"):
        client.start("echo", [])
    assert untouched(client) == before


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 101, "buffer_1", "system.x", "é", "a\n"])
def test_a_buffer_id_that_is_no_name_is_refused(client: Client, name: str) -> None:
    before = untouched(client)
    with pytest.raises(BufferError):
        client.start("echo", ["a"], buffer_id=name)
    assert untouched(client) == before


REFUSED = {
    "None": (None, UsageError, "item 5000: None is no item"),
    "a number": (7, UsageError, "item 5000: not an item: int is no answer"),
    "NUL": ("a\0b", UsageError, "item 5000: an item with a NUL character cannot be journaled"),
    "half a surrogate pair": ("\ud800", UsageError, "item 5000: .*surrogate"),
    "too long": (
        "x" * (8 * 1024 * 1024 + 1),
        LimitExceeded,
        "item 5000: an item of 8388609 bytes, more than",
    ),
    "too long in bytes": ("é" * (4 * 1024 * 1024 + 1), LimitExceeded, "item 5000: an item of 8388610 bytes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_one_item_that_cannot_be_journaled_refuses_the_whole_buffer(client: Client, what: str) -> None:
    item, error, message = REFUSED[what]
    before = untouched(client)
    items = [*["good"] * 5000, item, "good"]
    with pytest.raises(error, match=message):
        client.start("echo", items, buffer_id="refused")
    assert untouched(client) == before
    assert client.start("echo", ["good"]).wait(60).successful == 1


def test_a_generator_that_raises_leaves_nothing_and_its_own_exception(client: Client) -> None:
    before = untouched(client)

    def items() -> Iterator[str]:
        yield from (str(index) for index in range(9_000))
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        client.start("echo", items(), buffer_id="raising")
    assert untouched(client) == before
    assert client.start("echo", ["now"], buffer_id="raising").wait(60).total == 1


def test_one_str_is_not_taken_for_its_letters(client: Client) -> None:
    with pytest.raises(UsageError, match="not one str"):
        client.start("echo", "letters")


@pytest.mark.parametrize("items", [None, 7])
def test_items_that_are_none_are_refused(client: Client, items: Any) -> None:
    with pytest.raises(UsageError, match="items must be an iterable of items, not "):
        client.start("echo", items)


@pytest.mark.parametrize("option", ["target", "return_to"])
@pytest.mark.parametrize("count", [1, 20_000])
@pytest.mark.parametrize(("value", "reason"), [("\ud800", "surrogate"), (object(), "cannot be sent: ")])
def test_what_cannot_be_sent_is_refused(
    client: Client, option: str, count: int, value: Any, reason: str
) -> None:
    """As one frame, or as many."""
    before = untouched(client)
    options = {"target": "echo", option: value}
    with pytest.raises(UsageError, match=reason):
        client.start(items=["a"] * count, **options)
    assert untouched(client) == before


# Sizes


@pytest.mark.parametrize("count", [1, 2, BATCH_ITEMS - 1, BATCH_ITEMS, BATCH_ITEMS + 1, 25_000])
def test_any_number_of_items_arrives_whole_and_in_order(client: Client, count: int) -> None:
    buffer = client.start("echo", (f"{index}" for index in range(count)))
    assert buffer.wait(60).total == count
    assert [result.payload for result in buffer.results()] == [f"{index}" for index in range(count)]


@pytest.mark.slow
def test_items_of_any_size_up_to_the_limit_arrive_whole(client: Client) -> None:
    limit = 8 * 1024 * 1024
    sizes = [0, 1, 1023, 65_536, 65_537, 1024 * 1024, 1024 * 1024 + 1, 5_000_000, limit, 3]
    buffer = client.start("echo", [str(n % 10) * size for n, size in enumerate(sizes)])
    assert buffer.wait(60).successful == len(sizes)
    assert [(len(result.payload), result.payload[:1]) for result in buffer.results()] == [
        (size, str(n)[:size]) for n, size in enumerate(sizes)
    ]


def test_the_first_chunk_is_on_its_way_when_one_more_item_is_there(client: Client, facts: Facts) -> None:
    """And not when the second is whole: a small start is one frame, so it is looked whether more comes."""
    receiving = "SELECT count(*) FROM buffers WHERE buffer_id = 'ahead' AND state = 'receiving'"

    def items() -> Iterator[str]:
        yield from ["a"] * (BATCH_ITEMS + 1)
        facts.until(receiving)
        yield "the last"

    buffer = client.start("echo", items(), buffer_id="ahead")
    assert buffer.wait(60).successful == BATCH_ITEMS + 2


def test_characters_of_every_length_survive_also_at_the_edges_of_chunks(client: Client) -> None:
    items = ["é", "€", "😀", '"\\\n\t', "\u2028", "x" * 1_048_575 + "é", "é" * 524_288, "😀" * 262_145]
    buffer = client.start("echo", items)
    buffer.wait(60)
    assert [result.payload for result in buffer.results()] == items


def test_items_are_taken_from_a_generator_piece_by_piece(client: Client, facts: Facts) -> None:
    """The first are on disk before the last is made."""

    def items() -> Iterator[str]:
        yield from ["first"] * 30_000
        facts.until("SELECT total > 0 FROM buffers WHERE buffer_id = 'streamed' AND state = 'receiving'")
        assert facts.value("SELECT count(*) FROM in_flight WHERE buffer_id = 'streamed'") == 0
        yield "last"

    assert client.start("echo", items(), buffer_id="streamed").wait(60).total == 30_001


def test_elements_texts_and_dataclasses_can_be_mixed(client: Client) -> None:
    items = ["text", etree.fromstring("<a>1</a>"), Xml("<b/>"), Text("<c/>")]
    buffer = client.start("echo", items)
    buffer.wait(60)
    assert [result.payload for result in buffer.results()] == ["text", "<a>1</a>", "<b/>", "<c/>"]


# A supervisor of one's own


def test_metadata_says_which_item_it_is_and_has_a_key_that_stays(client: Client) -> None:
    buffer = client.start("describe", ["a", "b"], buffer_id="meta")
    buffer.wait(60)
    thread = Facts(client.journal).value("SELECT thread_id FROM buffers WHERE buffer_id = 'meta'")
    assert [result.payload for result in buffer.results()] == [
        f"{thread}/{index}|buffer_meta_w{index}|describe|False|{thread}/{index}|1|meta|{index}"
        for index in (0, 1)
    ]


@pytest.mark.slow
def test_leaving_gives_open_work_back_and_the_same_call_goes_on(
    journal: Path, run_log: RunLog, tmp_path: Path
) -> None:
    facts, door = Facts(journal), tmp_path / "door"
    items = [*[""] * 50, *[str(door)] * 50]
    with running(plain.bus, journal=journal, workers=2, grace=0) as client:
        client.start("gate", items, buffer_id="b")
        facts.until_recorded("b", 50)
    assert facts.rows("SELECT * FROM in_flight") == []
    assert facts.value("SELECT ended FROM runs") == "clean"
    door.touch()
    with running(plain.bus, journal=journal, workers=2) as client:
        assert client.start("gate", items, buffer_id="b").wait(60).successful == 100
    assert facts.failures("b") == []
    assert all(times == 1 for index, times in run_log.times().items() if index < 50)


def interrupt_amid_a_frame(client: Client, supervisor_pid: int) -> None:
    """Ctrl-C while a start waits for room to send the rest of a chunk, as the supervisor is stopped."""
    connection = client._session.connection._socket
    os.kill(supervisor_pid, signal.SIGSTOP)

    def interrupt() -> None:
        until(lambda: fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4) != b"\0" * 4, "a part was sent")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            client.start("echo", ["x" * 1_000_000] * 100, buffer_id="interrupted")
    finally:
        thread.join()
        os.kill(supervisor_pid, signal.SIGCONT)


@pytest.mark.slow
def test_ctrl_c_amid_a_frame_ends_the_supervisor_and_what_runs_is_finished(
    journal: Path, run_log: RunLog, tmp_path: Path
) -> None:
    """What came after half a frame would be read as its rest, and nobody would ever hear of the end."""
    facts, door = Facts(journal), tmp_path / "door"
    with running(plain.bus, journal=journal, workers=1) as client:
        client.start("gate", [str(door)], buffer_id="b")
        run_log.until_started(0)
        interrupt_amid_a_frame(client, client.supervisor_pid or 0)
        with pytest.raises(SupervisorLost, match="interrupted while it was sent"):
            client.start("echo", ["a"])
        door.touch()
    assert facts.value("SELECT ended FROM runs") == "clean"
    facts.assert_whole("b", 1)
    with running(plain.bus, journal=journal, workers=1) as client:
        assert client.start("echo", ["a"], buffer_id="interrupted").wait(60).successful == 1


def interrupt_within(work: Callable[[], None], module: ModuleType, after_lines: int) -> bool:
    """Ctrl-C before a line of a module is run, so many of its lines on; False: there are not as many."""
    left = after_lines

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return trace if event == "call" else None
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("module", [subprocess, threading, link])
def test_ctrl_c_at_any_moment_of_closing_leaves_nothing_that_hangs(journal: Path, module: ModuleType) -> None:
    """Popen's own lock, say, held for good by a `poll` that was interrupted: each later `wait` would hang."""
    interrupted, moments = True, 0
    while interrupted:
        client = open_client(app_spec(plain.bus), "plain", journal, 1)
        moments += 1
        interrupted = interrupt_within(client.close, module, moments)
        closing = threading.Thread(target=client.close, kwargs={"at_once": True}, daemon=True)
        closing.start()
        closing.join(PATIENCE_S)
        assert not closing.is_alive(), f"interrupted before line {moments} of {module}, it cannot be closed"
        until_gone(client.supervisor_pid or 0)
    assert moments >= 5


def test_a_daemons_client_goes_on_after_ctrl_c_amid_a_frame(journal: Path) -> None:
    with Daemon(journal, "apps.plain:bus", workers=1) as daemon, client_of(journal) as client:
        interrupt_amid_a_frame(client, daemon.process.pid)
        assert client.start("echo", ["a"], buffer_id="b").wait(60).successful == 1


def test_a_client_whose_supervisor_is_gone_can_still_read_what_was_recorded(journal: Path) -> None:
    with running(plain.bus, journal=journal, workers=1) as client:
        buffer = client.start("echo", ["a"], buffer_id="b")
        buffer.wait(60)
        kill(client.supervisor_pid or 0)
        assert buffer.wait(60).successful == 1
        assert [result.payload for result in buffer.results()] == ["a"]
        with pytest.raises(SupervisorLost):
            client.start("echo", ["b"])


def test_a_client_and_its_handlers_may_change_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal's path means what it meant at the start."""
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    facts = Facts(tmp_path / "journal.db")
    with running(collecting.bus, journal="journal.db", workers=1) as client:
        monkeypatch.chdir("sub")
        buffer = client.start("move", ["/"], buffer_id="b", return_to="digest")
        assert buffer.wait(60).successful == 1
        assert repr(buffer) == "<Buffer 'b' in 'journal.db'>"
        ended = "SELECT state FROM messages WHERE message_id = 'b/complete' AND settled_at IS NOT NULL"
        assert facts.until(ended) == "settled"
    assert facts.rows("SELECT * FROM failures") == []


@pytest.mark.parametrize("given", [None, "/of/the/user"])
def test_handlers_and_what_they_start_see_the_python_path_of_who_started_it_all(
    journal: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    """Another Python would find our packages first, compiled for this one."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if given is not None:
        monkeypatch.setenv("PYTHONPATH", given)
    with running(plain.bus, journal=journal, workers=1) as client:
        buffer = client.start("variable", ["PYTHONPATH"])
        buffer.wait(60)
        assert [result.payload for result in buffer.results()] == [given or "none"]


def test_a_supervisor_that_crashes_at_its_start_is_heard(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And nobody is told to run the same again, which would crash again."""
    (tmp_path / "selectors.py").write_text("raise RuntimeError('my last words')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SupervisorLost, match=r"crashed at its start \(exit code 1\)"):
        with running(plain.bus, journal=journal):
            pass
    assert "RuntimeError: my last words" in capfd.readouterr().err


IMPOSSIBLE = [
    ("workers", 0),
    ("workers", -1),
    ("workers", 1.5),
    ("workers", "2"),
    ("workers", True),
    ("durability", "fast"),
    ("durability", None),
    ("durability", []),
    ("grace", "x"),
    ("grace", -1),
    ("grace", None),
    ("grace", float("nan")),
    ("name", "\ud800"),
    ("name", 1),
]


@pytest.mark.parametrize(("option", "value"), IMPOSSIBLE)
def test_an_option_that_cannot_be_is_refused_before_anything_is_started(
    journal: Path, option: str, value: object
) -> None:
    options: Any = {option: value}
    with pytest.raises(UsageError, match="client name" if option == "name" else f"{option}="):
        with running(plain.bus, journal=journal, **options):
            pass
    assert not list(journal.parent.iterdir())


# Where a Bus can be found again

SCRIPT = """
from durable_bus import Bus
bus = Bus("script")

@bus.listener("double")
def double(text: str) -> str:
    return text * 2

print("imported as", __name__, flush=True)
{guard}
    with bus.running(journal="journal.db", workers=1) as client:
        buffer = client.start("double", ["ab"])
        buffer.wait(60)
        print([result.payload for result in buffer.results()])
"""


@pytest.mark.slow
def test_a_script_can_use_its_own_bus_behind_a_guard(tmp_path: Path) -> None:
    process = program(tmp_path / "script.py", SCRIPT.format(guard='if __name__ == "__main__":'))
    code, out, err = outcome(process)
    assert (code, out) == (0, "imported as __main__\n['abab']\n"), err
    assert "imported as __mp_main__" in err, "workers' prints go to stderr"


def test_a_script_without_a_guard_is_told_so_in_one_line(tmp_path: Path) -> None:
    code, out, err = outcome(program(tmp_path / "script.py", SCRIPT.format(guard="if True:")))
    assert code != 0
    assert "abab" not in out
    assert "BusNotImportable" in err


def test_a_bus_made_where_no_worker_can_import_it_is_refused_at_once(tmp_path: Path) -> None:
    source = (
        "from durable_bus import Bus\n"
        "from durable_bus.errors import BusNotImportable\n"
        "bus = Bus('typed')\n"
        "try:\n"
        "    with bus.running(journal='journal.db'): pass\n"
        "except BusNotImportable as error: print('refused:', error)\n\n"
    )
    for arguments, stdin in ((["-c", source], ""), (["-"], source)):
        done = subprocess.run(
            [sys.executable, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment(),
            timeout=60,
        )
        assert done.stdout.startswith("refused: "), done.stderr
    assert not (tmp_path / "journal.db").exists()


def test_a_bus_without_a_name_in_any_module_is_refused_at_once(journal: Path) -> None:
    with pytest.raises(BusNotImportable, match="no module has a name for Bus 'local'"):
        with running(Bus("local"), journal=journal):
            pass
    assert not journal.exists()


@pytest.mark.slow
def test_an_app_that_cannot_be_imported_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import sys\n"
        "from durable_bus import Bus\n"
        "bus = Bus('broken')\n"
        "if 'durable_bus.worker' in ' '.join(sys.orig_argv):\n"
        "    raise ImportError('only here')\n"
    )
    main = (
        "import broken\n"
        "from durable_bus.errors import BusNotImportable\n"
        "try:\n"
        "    with broken.bus.running(journal='journal.db', workers=2): pass\n"
        "except BusNotImportable as error: print(error)\n"
    )
    code, out, _ = outcome(program(tmp_path / "main.py", main))
    assert code == 0
    assert out.startswith("importing broken failed: ImportError: only here")
    assert out.count("\n") == 1
