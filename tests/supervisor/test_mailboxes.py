"""Named clients: a durable queue each, and a message with one receiver at a time."""

import json
import os
import secrets
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from apps import talking
from daemons import Daemon, Succession, client_of
from lxml import etree
from services import Raw, frame_of
from support import Facts, kill, outcome, program, until
from talks import script

from durable_bus import Buffer, BufferError, Client, Huh, SystemError, Text, Xml
from durable_bus.client.client import ReceivedMessage
from durable_bus.client.connection import Connection
from durable_bus.errors import LimitExceeded, MessageRefused, NotFound, TimedOut, UsageError
from durable_bus.payloads.xml_reading import PAYLOAD_BYTES_MAX
from durable_bus.payloads.xml_writing import dump
from durable_bus.wire.framing import encode
from durable_bus.wire.protocol import (
    AbandonReceiving,
    Acknowledge,
    Answer,
    Message,
    Receive,
    Respond,
    Send,
    Settled,
)

APP = "apps.talking:bus"


@pytest.fixture
def daemon(journal: Path) -> Iterator[Daemon]:
    with Daemon(journal, APP) as daemon:
        daemon.until_listening()
        yield daemon


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for tests that ask the same of it again and again, each under another name."""
    with Daemon(tmp_path_factory.mktemp("shared") / "journal.db", APP) as daemon:
        daemon.until_listening()
        yield daemon


def states(facts: Facts, to_id: str) -> list[str]:
    rows = facts.rows("SELECT state FROM messages WHERE to_id = ? ORDER BY created_at", to_id)
    return [state for (state,) in rows]


# Names


@pytest.mark.parametrize("name", ["system.x", "system.buffer", "buffer_b1_w5", "a b", "", "x" * 101, "ö"])
def test_a_name_of_the_bus_and_no_name_at_all_are_refused(shared: Daemon, name: str) -> None:
    with pytest.raises(UsageError, match="client name"):
        client_of(shared.journal, name)
    assert Facts(shared.journal).rows("SELECT name FROM mailbox WHERE name = ?", name) == []


@pytest.mark.slow
def test_the_name_of_a_listener_is_refused(journal: Path, daemon: Daemon, facts: Facts) -> None:
    with pytest.raises(MessageRefused, match="planner is a listener of the app"):
        client_of(journal, "planner")
    assert facts.rows("SELECT name FROM mailbox") == []


@pytest.mark.slow
def test_an_embedded_client_is_refused_the_same_names(journal: Path) -> None:
    for name, error in (("planner", MessageRefused), ("buffer_b1_w5", UsageError)):
        with pytest.raises(error):
            with talking.bus.running(journal=journal, workers=1, name=name):
                pass


@pytest.mark.slow
def test_a_client_without_a_name_has_no_mailbox(journal: Path, daemon: Daemon, facts: Facts) -> None:
    with closing(client_of(journal)) as client:
        for action in (lambda: client.send("planner", "x"), lambda: client.receive(0)):
            with pytest.raises(MessageRefused, match="a client needs a name for this"):
                action()
        client.start("inner", [script({"say": "x"})], buffer_id="b1").wait(60)
    rows = facts.rows("SELECT to_id, state FROM messages")
    assert rows == [("", "settled")], "its BufferComplete is the record, for nobody to fetch"


@pytest.mark.slow
def test_nothing_can_be_sent_to_an_unknown_name(journal: Path, daemon: Daemon, facts: Facts) -> None:
    with closing(client_of(journal, "cli")) as client:
        for name in ("nobody", "system.buffer", "buffer_b1_w0", ""):
            with pytest.raises(MessageRefused, match="unknown name"):
                client.send(name, "x")
        with pytest.raises(LimitExceeded):
            client.send("planner", "x" * (PAYLOAD_BYTES_MAX + 1))
        assert client.send("planner", script({"none": True}))
    assert facts.value("SELECT count(*) FROM messages") == 1


@pytest.mark.parametrize("field", ["from", "from_id", "name", "thread_id"])
@pytest.mark.slow
def test_the_sender_of_a_message_is_not_the_senders_to_choose(
    journal: Path, daemon: Daemon, facts: Facts, field: str
) -> None:
    """Only a client that speaks the private protocol by itself could try; the frame has no field for it."""
    with Raw(journal) as raw:
        raw.hello(name="cli")
        told = raw.ask("send", to="planner", payload="hello", is_xml=False, **{field: "system.buffer"})
        assert (told["type"], told["message"]) == ("UsageError", f"Object contains unknown field `{field}`")
        assert raw.ask("send", to="cli", payload="hello", is_xml=False)["k"] == "sent"
    assert facts.rows("SELECT from_id, to_id FROM messages") == [("cli", "cli")]


NOT_XML = [
    "<a>",
    "<b>just text a human typed",
    "<a/><b/>",
    '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
    Xml("plain"),
    Xml(""),
]


@pytest.mark.parametrize("number", range(len(NOT_XML)), ids=lambda number: repr(NOT_XML[number]))
def test_what_looks_like_xml_and_is_not_is_not_sent(shared: Daemon, number: int) -> None:
    name = f"sender{number}"
    with closing(client_of(shared.journal, name)) as client:
        with pytest.raises(UsageError, match="the message is not one XML element"):
            client.send(name, NOT_XML[number])
        assert states(Facts(shared.journal), name) == []
        client.send(name, Text("<b>just text a human typed"))
        client.send(name, ' <?xml version="1.0"?><a/>')
        received = [client.receive(60) for _ in range(2)]
        assert [(message.payload, message.is_xml) for message in received] == [
            ("<b>just text a human typed", False),
            ("<a/>", True),
        ]


# Receiving


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
        holder = program(tmp_path / "holder.py", source, str(journal))
        assert holder.stdout is not None
        assert client.receive(60).payload == "x"
        client.close()
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


# Settling


def test_a_response_goes_back_along_the_thread(journal: Path, daemon: Daemon, facts: Facts) -> None:
    with closing(client_of(journal, "asker")) as asker, closing(client_of(journal, "answerer")) as answerer:
        asker.send("answerer", "what?")
        question = answerer.receive(60)
        answerer.respond(question, Text("that"))
        answer = asker.receive(60)
        assert (answer.from_id, answer.payload, answer.thread_id) == ("answerer", "that", question.thread_id)
        with pytest.raises(MessageRefused, match="nobody is waiting for a response on this thread"):
            asker.respond(answer, "and that?")
        asker.acknowledge(answer)
    assert facts.rows("SELECT state FROM messages") == [("settled",), ("settled",)]


@pytest.mark.slow
def test_an_acknowledgement_is_the_end_and_nobody_hears_of_it(
    journal: Path, daemon: Daemon, facts: Facts
) -> None:
    with closing(client_of(journal, "asker")) as asker, closing(client_of(journal, "answerer")) as answerer:
        asker.send("answerer", "for you to know")
        answerer.acknowledge(answerer.receive(60))
    assert facts.rows("SELECT to_id, state FROM messages") == [("answerer", "settled")]


@pytest.mark.slow
def test_a_message_is_settled_once_by_who_it_is_for(journal: Path, daemon: Daemon, facts: Facts) -> None:
    with closing(client_of(journal, "cli")) as client, closing(client_of(journal, "thief")) as thief:
        client.send("planner", script({"say": "x"}))
        message = client.receive(60)
        for action in (lambda: thief.acknowledge(message), lambda: thief.respond(message, "mine")):
            with pytest.raises(NotFound, match=r"no message .* to thief"):
                action()
        client.acknowledge(message)
        for action in (lambda: client.acknowledge(message), lambda: client.respond(message, "again")):
            with pytest.raises(MessageRefused, match="was settled before"):
                action()
    assert facts.rows("SELECT state FROM messages") == [("settled",), ("settled",)]


@pytest.mark.slow
def test_who_responds_twice_is_told_that_it_was_settled_before(journal: Path, daemon: Daemon) -> None:
    """After the first response the thread has no hop left that waits for another."""
    with closing(client_of(journal, "asker")) as asker, closing(client_of(journal, "answerer")) as answerer:
        asker.send("answerer", "what?")
        question = answerer.receive(60)
        answerer.respond(question, "that")
        for action in (lambda: answerer.respond(question, "or"), lambda: answerer.acknowledge(question)):
            with pytest.raises(MessageRefused, match="was settled before"):
                action()
        assert asker.receive(60).payload == "that"


# Responses that are answers of items


def asked(client: Client, buffer_id: str) -> tuple[Buffer, ReceivedMessage]:
    """A buffer with an item that only waits for this client's response, and the message to respond to: the
    item's handler started a buffer whose completion comes to the client.
    """
    nested = {"target": "inner", "items": [{"say": "x"}], "return_to": client.name}
    buffer = client.start("planner", [script({"start": nested})], buffer_id=buffer_id, collect=False)
    return buffer, client.receive(60)


DEEP = "<a>" * 255 + "</a>" * 255
"""Well formed, and too deep to stand in a results document."""


NO_ANSWERS = [*NOT_XML, DEEP, "a\0b", "half \ud800", "\x01", 7]


@pytest.mark.parametrize("number", range(len(NO_ANSWERS)), ids=lambda number: f"{NO_ANSWERS[number]!a:.40}")
def test_a_response_that_no_handler_could_answer_is_refused_and_the_message_is_as_it_was(
    shared: Daemon, number: int
) -> None:
    name = f"answerer{number}"
    with closing(client_of(shared.journal, name)) as client:
        buffer, question = asked(client, name)
        with pytest.raises(UsageError, match="not an answer"):
            client.respond(question, NO_ANSWERS[number])
        assert states(Facts(shared.journal), name) == ["delivered"]
        client.respond(question, Text("<b>just text a human typed"))
        complete = buffer.wait(60)
    assert complete.successful == 1
    assert "".join(etree.fromstring(complete.results).itertext()) == "<b>just text a human typed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("payload", "is_xml"), [("<a>", True), ("<SystemError>", True), (DEEP, True), ("\x01", False)]
)
def test_a_response_that_came_unchecked_is_a_failed_result(
    journal: Path, daemon: Daemon, facts: Facts, payload: str, is_xml: bool
) -> None:
    """Only who speaks the private protocol by itself can send one; the results document must stand it."""
    with closing(client_of(journal, "cli")) as client:
        buffer, question = asked(client, "b")
        client._session.ask(Respond("1", question.message_id, payload, is_xml, True), Settled)
        complete = buffer.wait(60)
    assert complete.successful == 0
    (item,) = etree.fromstring(complete.results)
    assert item.findtext("SystemError/code") == "answer"
    assert facts.rows("SELECT message_id, kind FROM failures") == [(question.message_id, "answer")]
    assert states(facts, "cli") == ["settled"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "refusal", [Huh("what?"), SystemError("nobody", "went home"), BufferError("b1", "no room")], ids=type
)
def test_a_response_that_says_it_failed_fails_the_item(
    journal: Path, daemon: Daemon, facts: Facts, refusal: object
) -> None:
    with closing(client_of(journal, "cli")) as client:
        buffer, question = asked(client, "b")
        client.respond(question, refusal)
        assert buffer.wait(60).successful == 0
        (result,) = buffer.results()
        assert (result.success, result.payload) == (False, dump(refusal)[0])
        assert facts.rows("SELECT successful, failed FROM buffers WHERE buffer_id = 'b'") == [(0, 1)]
    assert facts.rows("SELECT * FROM failures") == [], "it is an answer, as of a handler: no attempt failed"


@pytest.mark.slow
def test_none_is_the_empty_text(journal: Path, daemon: Daemon) -> None:
    with closing(client_of(journal, "cli")) as client:
        buffer, question = asked(client, "b")
        client.respond(question, None)
        assert buffer.wait(60).successful == 1
        assert [(result.payload, result.is_xml) for result in buffer.results()] == [("", False)]


# Restarts


def test_mailboxes_and_messages_survive_the_death_of_the_daemon(journal: Path, facts: Facts) -> None:
    with Daemon(journal, APP) as daemon:
        with closing(client_of(journal, "cli")) as client:
            sent = [client.send("cli", word) for word in ("held", "waiting")]
            assert client.receive(60).message_id == sent[0]
            assert states(facts, "cli") == ["delivered", "waiting"]
            daemon.kill()
    with Daemon(journal, APP):
        with closing(client_of(journal, "other")) as other:
            sent.append(other.send("cli", "after"))
        with closing(client_of(journal, "cli")) as client:
            for message_id in sent:
                message = client.receive(60)
                assert message.message_id == message_id
                client.acknowledge(message)
            with pytest.raises(TimedOut):
                client.receive(0)


@pytest.mark.slow
def test_a_client_goes_on_where_it_was_when_the_daemon_is_back(journal: Path, facts: Facts) -> None:
    """What it holds it may still settle, and what it waits for still comes."""
    with Daemon(journal, APP) as daemon, closing(client_of(journal, "cli")) as client:
        client.send("cli", "held")
        message = client.receive(60)
        daemon.kill()
        with Daemon(journal, APP) as again:
            client.acknowledge(message)
            assert states(facts, "cli") == ["settled"]
            received: list[ReceivedMessage] = []
            waiting = threading.Thread(target=lambda: received.append(client.receive(60)))
            waiting.start()
            os.kill(again.process.pid, signal.SIGKILL)
            again.process.wait()
            with Daemon(journal, APP), closing(client_of(journal, "other")) as other:
                other.send("cli", "at last")
                waiting.join()
                assert [message.payload for message in received] == ["at last"]
                client.acknowledge(received[0])


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_message_is_sent_once_although_the_daemon_dies_while_it_is_sent(tmp_path: Path, when: str) -> None:
    """At its first commits: one of them is the one that records the message."""
    hit = 0
    for die_at in range(2, 5):
        journal = tmp_path / f"{die_at}.db"
        with Succession(journal, APP, [die_at], when) as daemons:
            with closing(client_of(journal, "cli")) as client:
                message_id = client.send("cli", "once")
                rows = Facts(journal).rows("SELECT message_id, payload FROM messages")
                assert rows == [(message_id, "once")]
                hit += daemons.killed
    assert hit > 0


KEPT = {
    "send": ({"to": "cli", "payload": "x", "is_xml": False}, {"message_id": "m", "thread_id": "t"}, "sent"),
    "acknowledge": ({"message_id": "m"}, {"message_id": "m"}, "settled"),
    "respond": (
        {"message_id": "m", "payload": "x", "is_xml": False, "success": True},
        {"message_id": "m"},
        "settled",
    ),
    "cancel": (
        {"buffer_id": "b"},
        {"buffer_id": "b", "state": "gone", "paused": False},
        "controlled",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KEPT)
def test_an_answer_that_an_earlier_version_has_kept_is_given_again(
    journal: Path, daemon: Daemon, facts: Facts, kind: str
) -> None:
    """As 0.1.0 wrote them into the journal."""
    request, answer, answered_with = KEPT[kind]
    with closing(client_of(journal, "cli")):
        daemon.stop()
    with closing(sqlite3.connect(journal)) as connection, connection:
        kept = json.dumps({"k": answered_with, **answer})
        connection.execute("INSERT INTO request (request_id, commit_id, answer) VALUES ('old', 1, ?)", [kept])
    with Daemon(journal, APP) as another:
        another.until_listening()
        with Raw(journal) as raw:
            raw.hello(name="cli")
            raw.write(frame_of({"k": kind, "request": "old", **request}))
            assert raw.answer() == {"k": answered_with, "request": "old", **answer}
    assert facts.rows("SELECT * FROM messages") == []


def test_a_message_that_no_worker_could_be_handed_is_refused(
    journal: Path, daemon: Daemon, facts: Facts
) -> None:
    """The client checks it too; this one does not."""
    daemon.until_listening()
    with Raw(journal) as raw:
        raw.hello(name="cli")
        told = raw.ask("send", to="echo", payload="a\0b", is_xml=False)
    assert (told["type"], told["message"]) == ("UsageError", "a payload cannot hold NUL")
    assert facts.rows("SELECT * FROM messages") == []


@pytest.mark.slow
def test_a_request_that_is_repeated_is_answered_again_and_not_done_again(
    journal: Path, daemon: Daemon, facts: Facts
) -> None:
    send = Send(secrets.token_hex(16), "cli", "once", False)
    with closing(client_of(journal, "cli")) as client:
        answers = []
        for _ in range(3):
            client._session.connection.send(send)
            answers.append(client._session.connection.answer(send.request, 60))
        assert answers[0] == answers[1] == answers[2]
        message = client.receive(60)
        settling = Acknowledge(secrets.token_hex(16), message.message_id)
        for _ in range(2):
            client._session.connection.send(settling)
            answer = client._session.connection.answer(settling.request, 60)
            assert answer == Settled(settling.request, message.message_id)
    assert facts.rows("SELECT payload, state FROM messages") == [("once", "settled")]
