"""What a handler's return value leads to: responses, forwards, further attempts, an end."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from talks import Talk, fields, forwarding, script, system_error

from durable_bus import Xml
from durable_bus.errors import TimedOut

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


@pytest.mark.slow
def test_none_ends_a_message_and_nobody_hears_of_it(talk: Talk) -> None:
    talk.client.send("planner", script({"none": True}))
    assert talk.ask("planner", {"say": "later"}) == "later"
    with pytest.raises(TimedOut):
        talk.client.receive(0)


@pytest.mark.slow
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
