"""What a handler's return value leads to, and that every conversation ends, however it ends."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from apps import endless, forms
from lxml import etree
from services import Service
from support import kill
from talks import Talk, chain_of, script

from durable_bus import Client, Xml
from durable_bus.app.finding import app_spec
from durable_bus.client.embedded import open_client
from durable_bus.errors import TimedOut


@pytest.fixture
def talk(journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Talk]:
    with closing(Talk(journal, tmp_path, monkeypatch)) as talk:
        yield talk
        talk.assert_nothing_left()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    """For tests that look at their own answer only."""
    folder = tmp_path_factory.mktemp("conversations")
    with pytest.MonkeyPatch.context() as environment:
        with closing(Talk(folder / "journal.db", folder, environment)) as talk:
            yield talk


def fields(payload: str) -> dict[str, str]:
    """A SystemError or BufferError, with its element's name as `kind`."""
    root = etree.fromstring(payload)
    return {"kind": root.tag, **{child.tag: child.text or "" for child in root}}


def system_error(code: str, message: str) -> dict[str, str]:
    return {"kind": "SystemError", "code": code, "message": message, "retry_allowed": "false"}


# Returning


@pytest.mark.slow
def test_a_bare_value_is_a_response(talk: Talk) -> None:
    assert talk.ask("planner", {"say": "yes"}) == "yes"
    columns = "kind, from_id, to_id, payload, state"
    assert talk.messages(columns) == [
        ("text", "cli", "planner", '{"say": "yes"}', "settled"),
        ("text", "planner", "cli", "yes", "settled"),
    ]


@pytest.mark.slow
def test_a_forward_comes_from_who_forwards_and_its_answer_comes_back(talk: Talk) -> None:
    answer = {"say": {"say": "I have asked"}}
    assert talk.ask("planner", {"tell": "helper", "payload": answer}) == "I have asked"
    assert talk.messages("from_id, to_id") == [
        ("cli", "planner"),
        ("planner", "helper"),
        ("helper", "planner"),
        ("planner", "cli"),
    ]
    assert len(set(talk.messages("thread_id"))) == 1


@pytest.mark.slow
def test_a_message_of_a_handler_to_itself_is_a_self_call(talk: Talk) -> None:
    forwarded = {"tell": "planner", "payload": {"describe": True}}
    told = json.loads(talk.ask("planner", forwarded))
    assert (told["from_id"], told["own_name"], told["is_self_call"]) == ("planner", "planner", True)
    assert [call["is_self_call"] for call in talk.calls()] == [False, True, True]


def test_none_ends_a_message_and_nobody_hears_of_it(talk: Talk) -> None:
    talk.client.send("planner", script({"none": True}))
    assert talk.ask("planner", {"say": "later"}) == "later"
    with pytest.raises(TimedOut):
        talk.client.receive(0)


def test_metadata_says_what_is_handled(talk: Talk) -> None:
    message_id = talk.client.send("planner", script({"describe": True}))
    answer = talk.client.receive(60)
    talk.client.acknowledge(answer)
    assert json.loads(answer.payload) == {
        "thread_id": answer.thread_id,
        "from_id": "cli",
        "own_name": "planner",
        "is_self_call": False,
        "message_id": message_id,
        "attempt": 1,
        "buffer_id": "",
        "index": -1,
    }
    _, payload = talk.result("work", {"describe": True})
    thread_id, buffer_id = talk.facts.rows("SELECT thread_id, buffer_id FROM buffers")[0]
    assert json.loads(payload) == {
        "thread_id": f"{thread_id}/0",
        "from_id": f"buffer_{buffer_id}_w0",
        "own_name": "work",
        "is_self_call": False,
        "message_id": f"{thread_id}/0",
        "attempt": 1,
        "buffer_id": buffer_id,
        "index": 0,
    }


# Attempts of messages


def test_a_message_is_tried_again_by_its_listeners_attempts_and_not_before_its_time(talk: Talk) -> None:
    assert talk.ask("patient", {"raise": "not yet", "until": 3}) == "well at attempt 3"
    assert [call["attempt"] for call in talk.calls()] == [1, 2, 3]
    failures = talk.facts.rows(
        "SELECT buffer_id, item_index, message_id, attempt, kind, message FROM failures ORDER BY attempt"
    )
    message_id = talk.calls()[0]["message_id"]
    assert failures == [
        (None, None, message_id, attempt, "exception", "ValueError: not yet") for attempt in (1, 2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("listener", "todo", "attempts", "code", "message"),
    [
        ("planner", {"raise": "no"}, 1, "exception", "ValueError: no"),
        ("tenacious", {"raise": "no"}, 3, "exception", "ValueError: no"),
        ("planner", {"die": True}, 3, "lost", "worker exited with code 1"),
    ],
)
def test_a_message_whose_attempts_are_used_up_is_failed_and_its_client_told_once(
    talk: Talk, listener: str, todo: dict[str, Any], attempts: int, code: str, message: str
) -> None:
    assert fields(talk.ask(listener, todo)) == system_error(code, message)
    assert talk.messages("from_id, to_id, state") == [
        ("cli", listener, "failed"),
        ("system", "cli", "settled"),
    ]
    assert len(talk.facts.rows("SELECT * FROM failures")) == attempts


@pytest.mark.slow
def test_a_payload_that_its_listener_cannot_read_fails_the_message_at_once(talk: Talk) -> None:
    talk.client.send("pedant", Xml("<Other/>"))
    answer = talk.client.receive(60)
    talk.client.acknowledge(answer)
    assert fields(answer.payload)["code"] == "malformed"
    assert talk.calls() == []


# Every chain ends. Each of these is handled for an item, so there is one result, and nothing is left over.


def forwarding(todo: dict[str, Any]) -> dict[str, Any]:
    return {"tell": "helper", "payload": todo}


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


# Cancelled


@pytest.fixture
def gated(journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Talk]:
    """Whoever is called is held until the test lets it go."""
    with closing(Talk(journal, tmp_path, monkeypatch, gated=True)) as talk:
        yield talk


THIRTY = {"start": {"target": "inner", "items": [{"say": "x"}] * 30, "buffer_id": "b2"}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "todo", [THIRTY, {"tell": "summary", "payload": {}}, {"say": "x"}], ids=["start", "forward", "answer"]
)
def test_what_is_said_for_an_item_of_a_cancelled_buffer_leads_nowhere(
    gated: Talk, todo: dict[str, Any]
) -> None:
    buffer = gated.client.start("work", [script(forwarding(todo))], buffer_id="b1")
    gated.let_go(gated.until_called())
    asked = gated.until_called()
    assert asked["own_name"] == "helper"
    assert gated.client.cancel("b1") == "cancelled"
    gated.let_go(asked)
    gated.facts.until("SELECT state = 'settled' FROM messages WHERE message_id = ?", asked["message_id"])
    assert gated.facts.rows("SELECT buffer_id FROM buffers") == [("b1",)]
    assert gated.messages("kind, to_id") == [("text", "helper"), ("BufferComplete", "cli")]
    assert buffer.wait(60).successful == 0
    assert list(buffer.results()) == []


@pytest.mark.slow
def test_the_completion_of_a_buffer_that_was_cancelled_with_the_one_around_it_leads_nowhere(
    gated: Talk,
) -> None:
    """`again` starts b3 when it is told that b2, which it started for an item of b1, has ended."""
    within = {"target": "inner", "items": [{"say": "x"}], "buffer_id": "b2"}
    todo = {"start": within, "then": {**within, "buffer_id": "b3"}}
    gated.client.start("again", [script(todo)], buffer_id="b1")
    gated.let_go(gated.until_called())
    assert gated.until_called()["own_name"] == "inner"
    assert gated.client.cancel("b1") == "cancelled"
    (gated.gates / "all").touch()
    gated.facts.until("SELECT state = 'settled' FROM messages WHERE message_id = 'b2/complete'")
    states = "SELECT buffer_id, state FROM buffers ORDER BY buffer_id"
    assert gated.facts.rows(states) == [("b1", "cancelled"), ("b2", "cancelled")]


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


# What is not the handler's to choose


@pytest.mark.slow
def test_a_handler_cannot_choose_from_nor_thread_nor_whom_it_is(talk: Talk) -> None:
    talk.client.send("forger", "go")
    answer = talk.client.receive(60)
    talk.client.acknowledge(answer)
    sent, forged, answered, _ = talk.messages("from_id, to_id, thread_id, kind")
    assert forged == ("forger", "helper", sent[2], "Signed")
    assert answered[:3] == ("helper", "forger", sent[2])
    assert talk.messages("message_id", "thread_id = 'elsewhere' OR from_id = 'nobody'") == []
    assert [(call["own_name"], call["from_id"]) for call in talk.calls()] == [
        ("forger", "cli"),
        ("helper", "forger"),
        ("forger", "helper"),
    ]


@pytest.mark.slow
def test_the_same_forgery_for_an_item_gets_nowhere_either(talk: Talk) -> None:
    buffer = talk.client.start("forger", ["go"], buffer_id="b1")
    buffer.wait(60)
    thread_id = talk.facts.value("SELECT thread_id FROM buffers WHERE buffer_id = 'b1'")
    forged, answered, _ = talk.messages("from_id, to_id, thread_id, kind")
    assert forged == ("forger", "helper", f"{thread_id}/0", "Signed")
    assert answered == ("helper", "forger", f"{thread_id}/0", "text")
    assert [result.payload for result in buffer.results()] == ["Signed: system.buffer|elsewhere"]
    talk.client.acknowledge(talk.client.receive(60))
