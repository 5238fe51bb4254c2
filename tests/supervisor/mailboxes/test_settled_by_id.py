"""A message that nobody has received is settled by its id; one that somebody has is left to him."""

from contextlib import closing

import pytest
from daemons import Daemon, client_of
from support import Facts

from durable_bus.errors import MessageRefused, NotFound


def test_a_waiting_message_is_acknowledged_by_its_id_and_no_other_is_received(shared: Daemon) -> None:
    facts = Facts(shared.journal)
    with closing(client_of(shared.journal, "by-id")) as client:
        sent = [client.send("by-id", word) for word in ("one", "two", "three")]
        client.acknowledge(sent[1])
        with pytest.raises(MessageRefused, match="was settled before"):
            client.acknowledge(sent[1])
        assert [client.receive(60).payload, client.receive(60).payload] == ["one", "three"]
    states = facts.rows("SELECT state FROM messages WHERE message_id = ?", sent[1])
    assert states == [("settled",)]


def test_a_waiting_message_is_answered_by_its_id(shared: Daemon) -> None:
    with (
        closing(client_of(shared.journal, "asker")) as asker,
        closing(client_of(shared.journal, "asked")) as asked,
    ):
        message_id = asker.send("asked", "why?")
        asked.respond(message_id, "because")
        assert asker.receive(60).payload == "because"


def test_a_message_in_hand_is_refused_to_another_client_of_the_name(shared: Daemon) -> None:
    with (
        closing(client_of(shared.journal, "held")) as one,
        closing(client_of(shared.journal, "held")) as other,
    ):
        message_id = one.send("held", "for one of us")
        message = one.receive(60)
        in_hand = f"another client called held has message {message_id} in hand"
        with pytest.raises(MessageRefused, match=in_hand):
            other.acknowledge(message_id)
        with pytest.raises(MessageRefused, match=in_hand):
            other.respond(message_id, "x")
        assert message.message_id == message_id
        one.acknowledge(message_id)


def test_a_message_that_comes_back_may_be_settled_by_its_id(shared: Daemon) -> None:
    with closing(client_of(shared.journal, "back")) as other:
        with closing(client_of(shared.journal, "back")) as one:
            message_id = one.send("back", "for one of us")
            one.receive(60)
        Facts(shared.journal).until("SELECT state = 'waiting' FROM messages WHERE message_id = ?", message_id)
        other.acknowledge(message_id)


def test_a_message_to_another_name_is_not_found(shared: Daemon) -> None:
    with (
        closing(client_of(shared.journal, "mine")) as one,
        closing(client_of(shared.journal, "yours")) as other,
    ):
        message_id = one.send("yours", "x")
        with pytest.raises(NotFound):
            one.acknowledge(message_id)
        other.acknowledge(message_id)
