"""A message is settled once, by a response or an acknowledgement; a response can be the answer of an item."""

from contextlib import closing
from pathlib import Path

import pytest
from daemons import Daemon, client_of
from lxml import etree
from mail import NOT_XML, states
from support import Facts
from talks import script

from durable_bus import Buffer, BufferError, Client, Huh, Json, SystemError, Text, Xml
from durable_bus.client.mailbox import ReceivedMessage
from durable_bus.errors import MessageRefused, NotFound, UsageError
from durable_bus.payloads.xml_writing import dump_dataclass
from durable_bus.wire.protocol import Respond, Settled

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


SAID_TO_BE_XML = [one if isinstance(one, Xml) else Xml(one) for one in [*NOT_XML, DEEP, "\x01"]]
NO_ANSWERS = [*SAID_TO_BE_XML, "a\0b", "half \ud800", {7}, Json.raw("{")]


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
    ("payload", "form"), [("<a>", 1), ("<SystemError>", 1), (DEEP, 1), ("{", 2), ("[" * 1000 + "]" * 1000, 2)]
)
def test_a_response_that_came_unchecked_is_a_failed_result(
    journal: Path, daemon: Daemon, facts: Facts, payload: str, form: int
) -> None:
    """Only who speaks the private protocol by itself can send one; the results document must stand it."""
    with closing(client_of(journal, "cli")) as client:
        buffer, question = asked(client, "b")
        client._session.ask(Respond("1", question.message_id, payload, form, True), Settled)
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
        assert (result.success, result.payload) == (False, dump_dataclass(refusal))
        assert facts.rows("SELECT successful, failed FROM buffers WHERE buffer_id = 'b'") == [(0, 1)]
    assert facts.rows("SELECT * FROM failures") == [], "it is an answer, as of a handler: no attempt failed"


@pytest.mark.slow
def test_none_is_the_empty_text(journal: Path, daemon: Daemon) -> None:
    with closing(client_of(journal, "cli")) as client:
        buffer, question = asked(client, "b")
        client.respond(question, None)
        assert buffer.wait(60).successful == 1
        assert [(result.payload, result.is_xml) for result in buffer.results()] == [("", False)]
