"""Named clients: who may have a mailbox, what may be sent to one, and that it survives restarts."""

import json
import os
import secrets
import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from apps import talking
from daemons import Daemon, Succession, client_of
from mail import APP, NOT_XML, states
from services import Raw, frame_of
from support import Facts
from talks import script

from durable_bus import Text
from durable_bus.client.mailbox import ReceivedMessage
from durable_bus.errors import LimitExceeded, MessageRefused, TimedOut, UsageError
from durable_bus.payloads.xml_reading import PAYLOAD_BYTES_MAX
from durable_bus.wire.protocol import Acknowledge, Send, Settled

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
        told = raw.ask("send", to="planner", payload="hello", form=0, **{field: "system.buffer"})
        assert (told["type"], told["message"]) == ("UsageError", f"Object contains unknown field `{field}`")
        assert raw.ask("send", to="cli", payload="hello", form=0)["k"] == "sent"
    assert facts.rows("SELECT from_id, to_id FROM messages") == [("cli", "cli")]


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
    "send": ({"to": "cli", "payload": "x", "form": 0}, {"message_id": "m", "thread_id": "t"}, "sent"),
    "acknowledge": ({"message_id": "m"}, {"message_id": "m"}, "settled"),
    "respond": (
        {"message_id": "m", "payload": "x", "form": 0, "success": True},
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
        told = raw.ask("send", to="echo", payload="a\0b", form=0)
    assert (told["type"], told["message"]) == ("UsageError", "a payload cannot hold NUL")
    assert facts.rows("SELECT * FROM messages") == []


@pytest.mark.slow
def test_a_request_that_is_repeated_is_answered_again_and_not_done_again(
    journal: Path, daemon: Daemon, facts: Facts
) -> None:
    send = Send(secrets.token_hex(16), "cli", "once", 0)
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
