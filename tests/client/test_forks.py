"""A process that is forked from one with a client does nothing to that client, and can work."""

from pathlib import Path

import pytest
from daemons import Daemon
from support import Facts, outcome, program

FORKING = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks in a process with threads, since 3.12
import durable_bus
from durable_bus import Client
from apps.plain import bus

def forked(action):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        action()
    except BaseException as error:
        print(type(error).__name__, str(error)[:60], flush=True)
        os._exit(1)
    os._exit(0)

def echoed(client, name):
    buffer = client.start("echo", [name] * 20, buffer_id=name)
    buffer.wait(timeout=30)
    assert [result.payload for result in buffer.results()] == [name] * 20

"""

DAEMON = (
    FORKING
    + """
with Client(sys.argv[1]) as client:
    buffer = client.start("echo", ["a"], buffer_id="parent")
    buffer.wait()
    list(buffer.results())  # which opens the journal
    for number in range(2):
        assert forked(lambda: echoed(client, f"child{number}")) == 0
        echoed(client, f"parent{number}")
    assert forked(client.close) == 0
    assert forked(lambda: (echoed(client, "last"), client.close())) == 0
    with client.stream("echo", buffer_id="stream") as stream:
        stream.put("a")
        stream.flush()
        assert forked(lambda: stream.put("b")) == 1
        assert forked(lambda: stream.__exit__(SystemExit, SystemExit(), None)) == 0
        stream.put("c")
    stream.wait()
    assert [result.payload for result in stream.results()] == ["a", "c"]
    echoed(client, "parent2")
"""
)

OWN = (
    FORKING
    + """
with bus.running(sys.argv[1], workers=1) as client:
    echoed(client, "parent")
    assert forked(lambda: echoed(client, "child")) == 1
    buffer = client.buffer("parent")
    assert forked(lambda: print(len(list(buffer.results())), buffer.wait(), flush=True)) == 0
    assert forked(client.close) == 0
    pid = os.fork()
    if not pid:
        sys.exit(3)  # which leaves the block
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    echoed(client, "parent2")
"""
)

MAP = (
    FORKING
    + """
def items():
    for number in range(30):
        if number in (0, 10, 29):
            pid = os.fork()
            if not pid:
                sys.exit(0)  # unwinds the call that asks for items
            os.waitpid(pid, 0)
        yield number

print(sum(durable_bus.map(str.__len__, map(str, items()), journal=sys.argv[1], workers=1)))
"""
)


@pytest.mark.slow
def test_a_child_of_a_daemons_client_has_its_own_connection(journal: Path, tmp_path: Path) -> None:
    with Daemon(journal, "apps.plain:bus") as daemon:
        daemon.until_listening()
        code, out, err = outcome(program(tmp_path / "forking.py", DAEMON, str(journal)))
    assert (code, err) == (0, "")
    assert out == "UsageError this process was forked from the one that puts the items of \n"
    facts = Facts(journal)
    assert facts.value("SELECT count(*) FROM buffers WHERE state = 'complete'") == 8


@pytest.mark.slow
def test_a_child_never_ends_the_parents_own_supervisor(journal: Path, tmp_path: Path) -> None:
    code, out, err = outcome(program(tmp_path / "forking.py", OWN, str(journal)))
    assert (code, err) == (0, "")
    refused, read = out.splitlines()
    assert refused == "UsageError this process was forked from the one whose client this is, a"
    assert read.startswith("20 BufferComplete(")
    assert Facts(journal).rows("SELECT buffer_id FROM buffers") == [("parent",), ("parent2",)]


@pytest.mark.slow
def test_a_child_of_what_makes_the_items_of_a_map(journal: Path, tmp_path: Path) -> None:
    code, out, err = outcome(program(tmp_path / "forking.py", MAP, str(journal)))
    assert (code, out, err) == (0, "50\n", "")
