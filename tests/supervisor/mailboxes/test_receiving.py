"""A message waits for a receiver, and is with one receiver at a time."""

import threading
from contextlib import closing
from pathlib import Path

import pytest
from daemons import Daemon, client_of
from mail import states
from services import Raw
from support import Facts, kill, outcome, program, until

from durable_bus.client.connection import Connection
from durable_bus.client.mailbox import ReceivedMessage
from durable_bus.errors import TimedOut, UsageError
from durable_bus.wire.framing import encode
from durable_bus.wire.protocol import AbandonReceiving, Answer, Message, Receive


@pytest.mark.slow
def test_a_message_waits_for_its_receiver_however_long(journal: Path, daemon: Daemon, facts: Facts) -> None:
    client_of(journal, "late").close()
    with closing(client_of(journal, "cli")) as client:
        sent = [client.send("late", word) for word in ("one", "two", "three")]
    assert states(facts, "late") == ["waiting"] * 3
    with closing(client_of(journal, "late")) as late:
        received = [late.receive(60) for _ in range(3)]
        assert [message.message_id for message in received] == sent
        assert [message.payload for message in received] == ["one", "two", "three"]
        assert {message.from_id for message in received} == {"cli"}
        assert states(facts, "late") == ["delivered"] * 3
        for message in received:
            late.acknowledge(message)
    assert states(facts, "late") == ["settled"] * 3


@pytest.mark.slow
def test_a_message_is_with_one_receiver_at_a_time(journal: Path, daemon: Daemon, facts: Facts) -> None:
    with closing(client_of(journal, "cli")) as one, closing(client_of(journal, "cli")) as other:
        message_id = one.send("cli", "for one of us")
        first = one.receive(60)
        with pytest.raises(TimedOut):
            other.receive(0)
        one.close()
        second = other.receive(60)
        assert (first.message_id, second.message_id) == (message_id, message_id)
        other.acknowledge(second)
    assert states(facts, "cli") == ["settled"]


@pytest.mark.slow
def test_of_many_that_wait_each_message_reaches_one(journal: Path, daemon: Daemon) -> None:
    received: list[str] = []

    def receive_one() -> None:
        with closing(client_of(journal, "shared")) as client:
            message = client.receive(60)
            client.acknowledge(message)
            received.append(message.payload)

    receivers = [threading.Thread(target=receive_one) for _ in range(4)]
    client_of(journal, "shared").close()
    for receiver in receivers:
        receiver.start()
    with closing(client_of(journal, "cli")) as client:
        for number in range(4):
            client.send("shared", str(number))
    for receiver in receivers:
        receiver.join()
    assert sorted(received) == ["0", "1", "2", "3"]


def test_what_a_killed_receiver_held_waits_again(journal: Path, tmp_path: Path, daemon: Daemon) -> None:
    source = (
        "import sys, time\n"
        "from durable_bus import Client\n"
        "with Client(sys.argv[1], name='held') as client:\n"
        "    print(client.receive(60).message_id, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with closing(client_of(journal, "held")) as client:
        client.send("held", "x")
        assert client.receive(60).payload == "x"
        holder = program(tmp_path / "holder.py", source, str(journal))
        assert holder.stdout is not None
    message_id = holder.stdout.readline().strip()
    kill(holder.pid)
    holder.communicate()
    with closing(client_of(journal, "held")) as client:
        message = client.receive(60)
        assert message.message_id == message_id
        client.acknowledge(message)


@pytest.mark.slow
def test_a_receiver_whose_time_is_up_takes_nothing_with_it(journal: Path, daemon: Daemon) -> None:
    with closing(client_of(journal, "cli")) as client:
        for _ in range(3):
            with pytest.raises(TimedOut):
                client.receive(0.01)
        client.send("cli", "x")
        message = client.receive(60)
        assert message.payload == "x"
        client.acknowledge(message)


@pytest.mark.slow
@pytest.mark.parametrize("timeout", [1e12, 1e300, float("inf")])
def test_a_receiver_may_have_all_the_time_there_is(journal: Path, daemon: Daemon, timeout: float) -> None:
    with closing(client_of(journal, "alice")) as alice, closing(client_of(journal, "bob")) as bob:
        received: list[ReceivedMessage] = []
        waiting = threading.Thread(target=lambda: received.append(alice.receive(timeout)))
        waiting.start()
        until(lambda: alice._session.connection._answers or not waiting.is_alive(), "it has asked")
        alice.supervisor_status(timeout)
        bob.send("alice", "at last")
        waiting.join()
        assert [message.payload for message in received] == ["at last"]


@pytest.mark.slow
def test_a_time_that_is_no_number_is_refused(journal: Path, daemon: Daemon) -> None:
    with closing(client_of(journal, "alice")) as alice:
        with pytest.raises(UsageError, match="timeout=nan is no number of seconds"):
            alice.receive(float("nan"))


INTERRUPTED = """
import os, signal, sys, threading, time
from durable_bus import Client

def interrupt():
    while not client._session.connection._answers:  # until it has asked for a message
        time.sleep(0.001)
    client.supervisor_status(60)  # frames are answered in order: this one came after
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

with Client(sys.argv[1], name="alice") as client:
    threading.Thread(target=interrupt).start()
    try:
        client.receive()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    while not os.path.exists("go on"):
        time.sleep(0.005)
    message = client.receive(60)
    client.acknowledge(message)
    print(message.payload)
"""


@pytest.mark.slow
def test_an_interrupted_receive_swallows_no_message(journal: Path, tmp_path: Path, daemon: Daemon) -> None:
    """The program goes on, with its connection open: the next message is for who asks next."""
    alice = program(tmp_path / "alice.py", INTERRUPTED, str(journal))
    assert alice.stdout is not None
    assert alice.stdout.readline() == "interrupted\n"
    with closing(client_of(journal, "bob")) as bob, closing(client_of(journal, "alice")) as other:
        bob.send("alice", "one")
        message = other.receive(60)
        other.acknowledge(message)
        bob.send("alice", "two")
    (tmp_path / "go on").touch()
    assert message.payload == "one"
    assert outcome(alice) == (0, "two\n", "")


@pytest.mark.slow
def test_a_message_that_came_while_its_receiver_was_interrupted_waits_again(
    journal: Path, daemon: Daemon, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Connection.answer

    def interrupted(connection: Connection, request_id: str, timeout_s: float | None = None) -> Answer:
        """As if Ctrl-C came between a message's arrival and the return of `receive`."""
        told = answer(connection, request_id, timeout_s)
        if isinstance(told, Message):
            raise KeyboardInterrupt
        return told

    with closing(client_of(journal, "alice")) as alice, closing(client_of(journal, "alice")) as other:
        sent = [alice.send("alice", word) for word in ("one", "two")]
        with monkeypatch.context() as patched:
            patched.setattr(Connection, "answer", interrupted)
            with pytest.raises(KeyboardInterrupt):
                alice.receive(60)
        facts.until("SELECT count(*) = 2 FROM messages WHERE state = 'waiting'")
        first = other.receive(60)
        second = alice.receive(60)
        assert [first.message_id, second.message_id] == sent
        other.acknowledge(first)
        alice.acknowledge(second)
    assert states(facts, "alice") == ["settled", "settled"]


@pytest.mark.slow
def test_an_abandoned_request_costs_no_other_request_its_message(journal: Path, daemon: Daemon) -> None:
    """Whether it is said before the message went out, after, twice, or for a request that never was."""
    with Raw(journal) as raw, closing(client_of(journal, "bob")) as bob:
        raw.hello(name="alice")
        for number in ("1", "2", "3", "3", "nonsense"):
            raw.write(encode(Receive(number)))
            raw.write(encode(AbandonReceiving(number)))
        raw.write(encode(Receive("4")))
        bob.send("alice", "one")
        told = raw.answer()
        assert (told["request"], told["payload"]) == ("4", "one")
        raw.write(encode(AbandonReceiving("1")))
        raw.write(encode(Receive("5")))
        bob.send("alice", "two")
        assert raw.answer()["payload"] == "two"
        raw.write(encode(AbandonReceiving("4")))
        raw.write(encode(Receive("6")))
        again = raw.answer()
        assert (again["request"], again["message_id"]) == ("6", told["message_id"])
