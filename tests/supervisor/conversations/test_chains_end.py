"""Every chain of messages ends, however it ends.

Each of `ENDS` is handled for an item, so there is one result, and nothing is left over.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from apps import endless, forms
from services import Service
from support import kill
from talks import Talk, chain_of, fields, forwarding, script, system_error

from durable_bus import Client, Xml
from durable_bus.app.finding import app_spec
from durable_bus.client.embedded import open_client


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    """For tests that look at their own answer only."""
    folder = tmp_path_factory.mktemp("conversations")
    with pytest.MonkeyPatch.context() as environment:
        with closing(Talk(folder / "journal.db", folder, environment)) as talk:
            yield talk


UNKNOWN_TARGET = {"start": {"target": "nobody", "items": [{"say": "x"}], "buffer_id": "b2"}}


ENDS: dict[str, tuple[str, dict[str, Any], bool, Any]] = {
    "None": ("work", forwarding({"none": True}), True, ""),
    "an exception": (
        "work",
        forwarding({"raise": "no"}),
        False,
        system_error("exception", "ValueError: no"),
    ),
    "a death": ("work", forwarding({"die": True}), False, system_error("lost", "worker exited with code 1")),
    "an unknown name": (
        "work",
        {"tell": "nobody", "payload": {}},
        False,
        system_error("routing", "work sent to the unknown name 'nobody'"),
    ),
    "an unknown name, from further up": (
        "work",
        forwarding({"tell": "nobody", "payload": {}}),
        False,
        system_error("routing", "helper sent to the unknown name 'nobody'"),
    ),
    "a name of the bus": (
        "work",
        {"tell": "buffer_b1_w0", "payload": {}},
        False,
        system_error("routing", "work sent to the unknown name 'buffer_b1_w0'"),
    ),
    "no peer": (
        "limited",
        {"tell": "planner", "payload": {}},
        False,
        system_error(
            "routing", "limited may not address 'planner': its peers are helper, inner, system.buffer"
        ),
    ),
    "no peer at all": (
        "lonely",
        {"tell": "planner", "payload": {}},
        False,
        system_error("routing", "lonely may not address 'planner': its peers are nobody"),
    ),
    "no peer as a buffer's target": (
        "limited",
        {"start": {"target": "work", "items": [{"say": "x"}]}},
        False,
        system_error("routing", "limited may not address 'work': its peers are helper, inner, system.buffer"),
    ),
    "itself, when it is no peer": (
        "limited",
        {"tell": "limited", "payload": {"say": "x"}},
        False,
        system_error(
            "routing", "limited may not address 'limited': its peers are helper, inner, system.buffer"
        ),
    ),
    "itself, when it is no peer, as a buffer's target": (
        "limited",
        {"start": {"target": "limited", "items": [{"say": "x"}]}},
        False,
        system_error(
            "routing", "limited may not address 'limited': its peers are helper, inner, system.buffer"
        ),
    ),
    "no peer as a buffer's return_to": (
        "limited",
        {"start": {"target": "inner", "items": [{"say": "x"}], "return_to": "summary"}},
        False,
        system_error(
            "routing", "limited may not address 'summary': its peers are helper, inner, system.buffer"
        ),
    ),
    "no peer system.buffer": (
        "lonely",
        {"start": {"target": "inner", "items": [{"say": "x"}]}},
        False,
        system_error("routing", "lonely may not address 'system.buffer': its peers are nobody"),
    ),
    "a BufferError that is handled": (
        "work",
        UNKNOWN_TARGET,
        True,
        "BufferError: b2|unknown target 'nobody'; the listeners are: again, forger, helper, inner, limited, "
        "lonely, patient, pedant, planner, summary, tenacious, work",
    ),
    "an item of a buffer within, lost": (
        "work",
        {"start": {"target": "inner", "items": [{"say": "x"}, {"raise": "no"}, {"tell": "nobody"}]}},
        True,
        "x|exceptionValueError: nofalse|exceptionKeyError: 'payload'false",
    ),
    "a peer": ("limited", {"tell": "inner", "payload": {"say": "fine"}}, True, "fine"),
    "a buffer that its peers allow": (
        "limited",
        {"start": {"target": "inner", "items": [{"say": "fine"}], "return_to": "limited"}},
        True,
        "fine",
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_every_chain_ends_on_the_item_below_it(shared: Talk, how: str) -> None:
    listener, todo, success, expected = ENDS[how]
    assert_result(shared.result(listener, todo), success, expected)
    shared.assert_nothing_left()


def assert_result(result: tuple[bool, str], success: bool, expected: Any) -> None:
    assert (result[0], fields(result[1]) if isinstance(expected, dict) else result[1]) == (success, expected)


@pytest.mark.slow
def test_a_chain_that_ends_above_an_item_of_a_buffer_within_ends_that_item_only(talk: Talk) -> None:
    within = [{"tell": "helper", "payload": {"none": True}}, {"tell": "nobody", "payload": {}}, {"say": "c"}]
    success, payload = talk.result("work", {"start": {"target": "inner", "items": within, "buffer_id": "b2"}})
    assert (success, payload) == (
        True,
        "|routinginner sent to the unknown name 'nobody'false|c",
    )
    assert talk.facts.rows("SELECT item_index, success FROM results WHERE buffer_id = 'b2'") == [
        (0, 1),
        (1, 0),
        (2, 1),
    ]


@pytest.mark.slow
def test_a_message_to_an_unknown_name_is_kept_as_failed(talk: Talk) -> None:
    error = fields(talk.ask("planner", {"tell": "nobody", "payload": {"say": "hello"}}))
    assert error == system_error("routing", "planner sent to the unknown name 'nobody'")
    rows = talk.messages("from_id, to_id, payload, state", "to_id = 'nobody'")
    assert rows == [("planner", "nobody", '{"say": "hello"}', "failed")]


@pytest.mark.slow
def test_a_buffer_error_that_cannot_be_handled_ends_the_item_and_causes_no_other(talk: Talk) -> None:
    buffer = talk.client.start("pedant", [Xml("<Order><target>nobody</target></Order>")])
    buffer.wait(60)
    (result,) = buffer.results()
    assert not result.success
    error = fields(result.payload)
    assert (error["kind"], error["buffer_id"]) == ("BufferError", "pedantic")
    assert error["error"].startswith("unknown target 'nobody'")
    assert talk.messages("kind, from_id, to_id, state", "kind <> 'BufferComplete'") == [
        ("BufferError", "system.buffer", "pedant", "failed")
    ]
    assert talk.facts.rows("SELECT kind FROM failures") == [("malformed",)]
    talk.client.acknowledge(talk.client.receive(60))


@pytest.mark.slow
def test_a_buffer_error_that_cannot_be_handled_is_told_to_the_client_below_once(talk: Talk) -> None:
    talk.client.send("pedant", Xml("<Order><target>nobody</target></Order>"))
    answer = talk.client.receive(60)
    talk.client.acknowledge(answer)
    assert fields(answer.payload)["kind"] == "BufferError"
    assert len(talk.messages("message_id")) == 3


def failed_twice(client: Client, listener: str, buffer_id: str | None = None) -> tuple[str, str]:
    """What a listener fails with that is told to go: as an item's result, and to the sender of a message."""
    buffer = client.start(listener, ["go"], buffer_id=buffer_id)
    assert buffer.wait(60).successful == 0
    (result,) = buffer.results()
    client.acknowledge(client.receive(60))
    client.send(listener, "go")
    told = client.receive(60)
    client.acknowledge(told)
    return result.payload, told.payload


@pytest.mark.slow
@pytest.mark.parametrize("listener", ["misspelling", "complaining"])
def test_an_error_whose_handling_is_refused_again_ends_the_chain_and_causes_no_other(
    journal: Path, listener: str
) -> None:
    """A BufferError may still be handled; what that leads to is refused, too, and nobody is told."""
    with Service(journal, "apps.endless:bus") as service, service.client("cli") as client:
        payloads = failed_twice(client, listener)
        error = f"unknown target 'nobody'; the listeners are: {', '.join(sorted(endless.bus.listeners))}"
        for payload in payloads:
            assert fields(payload) == {"kind": "BufferError", "buffer_id": "b2", "error": error}
        errors = "SELECT from_id, to_id, state FROM messages WHERE kind = 'BufferError' ORDER BY to_id"
        handled = [("system.buffer", listener, "settled")] * 2
        assert service.facts.rows(errors) == [("system", "cli", "settled"), *handled]
        assert service.facts.rows("SELECT * FROM messages WHERE state NOT IN ('settled', 'failed')") == []


def test_an_item_forwarded_to_a_mailbox_gets_what_the_client_responds(talk: Talk) -> None:
    buffer = talk.client.start("work", [script({"tell": "cli", "payload": {"please": 1}})], buffer_id="b1")
    question = talk.client.receive(60)
    assert (question.from_id, question.payload) == ("work", '{"please": 1}')
    assert chain_of(talk.journal, question.thread_id) == "cli.buffer_b1_w0.work.cli"
    assert talk.facts.rows("SELECT state FROM items") == [("forwarded",)]
    talk.client.respond(question, "there you are")
    assert buffer.wait(60).successful == 1
    assert [result.payload for result in buffer.results()] == ["there you are"]
    talk.client.acknowledge(talk.client.receive(60))


@pytest.mark.slow
def test_a_mailbox_that_acknowledges_without_responding_fails_the_item(talk: Talk) -> None:
    buffer = talk.client.start("work", [script({"tell": "cli", "payload": {"please": 1}})])
    talk.client.acknowledge(talk.client.receive(60))
    assert buffer.wait(60).successful == 0
    (result,) = buffer.results()
    assert fields(result.payload) == system_error(
        "acknowledged", "cli acknowledged the message without responding"
    )
    talk.client.acknowledge(talk.client.receive(60))


@pytest.mark.slow
def test_a_listener_that_todays_app_lacks_keeps_its_messages_until_an_app_has_it_again(talk: Talk) -> None:
    """The one way for an item to stay open. Nothing is lost, and nothing is handed to anybody else."""
    talk.client.start("work", [script({"tell": "cli", "payload": {}})], buffer_id="b1")
    talk.client.receive(60)
    assert talk.client.supervisor_pid is not None
    kill(talk.client.supervisor_pid)
    talk.client.close()
    with open_client(app_spec(forms.bus), "forms", talk.journal, 1, name="cli") as without:
        question = without.receive(60)
        without.respond(question, json.dumps({"say": "answered by work after all"}))
        assert without.start("text", ["x"]).wait(60).successful == 1
        without.acknowledge(without.receive(60))
        assert talk.messages("to_id, state", "state = 'waiting'") == [("work", "waiting")]
        assert talk.facts.rows("SELECT state FROM items WHERE buffer_id = 'b1'") == [("forwarded",)]
        assert "work" not in without.listeners
    talk.client = talk.connect()
    buffer = talk.client.buffer("b1")
    assert buffer.wait(60).successful == 1
    assert [result.payload for result in buffer.results()] == ["answered by work after all"]
    talk.client.acknowledge(talk.client.receive(60))


# Conversations that come to no end by themselves


ENDLESS = {
    "asking": "this thread has 40 messages already, the limit is 40",
    "dispatching": "this thread has 40 messages already, the limit is 40",
    "fanning": "this thread has 40 messages already, the limit is 40",
    "repeating": "this thread has 40 messages already, the limit is 40",
    "forwarding": "this thread has 1000 hops already, the limit is 1000",
}


@pytest.mark.slow
@pytest.mark.parametrize("listener", ENDLESS)
def test_a_conversation_that_leads_nowhere_is_ended_by_a_limit(journal: Path, listener: str) -> None:
    messages = 40 if "messages" in ENDLESS[listener] else 10_000
    options = {"thread_messages_max": messages}
    with Service(journal, "apps.endless:bus", **options) as service, service.client("cli") as client:
        payloads = failed_twice(client, listener, buffer_id="b1")
        for payload in payloads:
            assert fields(payload) == system_error("routing", ENDLESS[listener])
        longest = (
            "SELECT max(n) FROM (SELECT count(*) AS n FROM messages WHERE to_id <> 'cli' GROUP BY thread_id)"
        )
        assert service.facts.value(longest) <= messages + 1, "an answer may follow"
        service.facts.until("SELECT count(*) = 0 FROM buffers WHERE state <> 'complete'")
        assert service.facts.rows("SELECT * FROM messages WHERE state <> 'settled'") == []
