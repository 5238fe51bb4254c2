"""`system.buffer`: what a handler gets that returns a BufferStart, in every case."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from apps import talking
from lxml import etree
from talks import Talk, chain_of, script

from durable_bus import BufferError

ITEMS = [{"say": "a"}, {"say": "b"}]


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    folder = tmp_path_factory.mktemp("system_buffer")
    with pytest.MonkeyPatch.context() as environment:
        with closing(Talk(folder / "journal.db", folder, environment)) as talk:
            yield talk
            talk.assert_nothing_left()


def start(**changed: Any) -> dict[str, Any]:
    """Planner starts a buffer at inner."""
    return {"start": {"target": "inner", "items": ITEMS, **changed}}


def row_of(talk: Talk, buffer_id: str) -> dict[str, Any]:
    (row,) = talk.facts.dicts("SELECT * FROM buffers WHERE buffer_id = ?", buffer_id)
    return row


def runs_of(talk: Talk, buffer_id: str) -> list[int]:
    """Which of its items ran, in whatever order."""
    return sorted(call["index"] for call in talk.calls() if call["buffer_id"] == buffer_id)


def completions_of(talk: Talk, buffer_id: str) -> list[tuple[Any, ...]]:
    return talk.messages("from_id, to_id, state", "message_id = ?", f"{buffer_id}/complete")


# Collecting


def test_a_collecting_start_comes_back_to_the_starter_as_one_buffer_complete(talk: Talk) -> None:
    assert talk.ask("planner", start(buffer_id="given")) == "a|b"
    row = row_of(talk, "given")
    assert (row["from_id"], row["return_to"], row["target"]) == ("planner", "planner", "inner")
    assert (row["collect"], row["total"], row["successful"], row["state"]) == (1, 2, 2, "complete")
    assert completions_of(talk, "given") == [("buffer_given", "planner", "settled")]
    assert runs_of(talk, "given") == [0, 1]


def test_a_generated_id_has_128_bits_and_is_new_each_time(talk: Talk) -> None:
    before = {buffer_id for (buffer_id,) in talk.facts.rows("SELECT buffer_id FROM buffers")}
    for _ in range(2):
        assert talk.ask("planner", start()) == "a|b"
    after = {buffer_id for (buffer_id,) in talk.facts.rows("SELECT buffer_id FROM buffers")}
    assert len(after - before) == 2
    for buffer_id in after - before:
        assert len(bytes.fromhex(buffer_id)) == 16


def test_buffer_complete_counts_and_says_what_failed(talk: Talk) -> None:
    items = [{"say": "a"}, {"raise": "no"}, {"none": True}]
    assert talk.ask("planner", start(items=items, buffer_id="partly")) == "a|exceptionValueError: nofalse|"
    (payload,) = talk.messages("payload", "message_id = 'partly/complete'")[0]
    assert payload == (
        "<BufferComplete><buffer_id>partly</buffer_id><total>3</total><successful>2</successful>"
        "<results></results></BufferComplete>"
    ), "the journaled message holds no results"
    (text,) = [call["text"] for call in talk.calls() if call["message_id"] == "partly/complete"]
    document = str(etree.fromstring(text).findtext("results"))
    assert document.startswith(
        '<results><item index="0" success="true">a</item><item index="1" success="false"><'
    )
    assert document.endswith('</SystemError></item><item index="2" success="true"></item></results>')


def test_return_to_another_listener_hands_the_thread_over(talk: Talk) -> None:
    talk.client.send("planner", script(start(return_to="summary", buffer_id="returned")))
    answer = talk.client.receive(60)
    talk.client.acknowledge(answer)
    assert (answer.from_id, answer.payload) == ("summary", "a|b")
    assert completions_of(talk, "returned") == [("buffer_returned", "summary", "settled")]
    assert "planner" not in chain_of(talk.journal, answer.thread_id)


def test_return_to_a_mailbox_is_a_message_to_that_client(talk: Talk) -> None:
    talk.client.send("planner", script(start(return_to="cli", buffer_id="to-cli")))
    complete = talk.client.receive(60)
    assert (complete.kind, complete.from_id) == ("BufferComplete", "buffer_to-cli")
    assert chain_of(talk.journal, complete.thread_id) == "cli.cli"
    talk.client.acknowledge(complete)


# Fire and forget


@pytest.mark.parametrize("buffer_id", ["", "forgotten"])
def test_a_start_that_collects_nothing_is_told_when_all_is_on_disk(talk: Talk, buffer_id: str) -> None:
    answer = talk.ask("planner", start(collect=False, buffer_id=buffer_id))
    word, _, told = answer.partition(": ")
    chosen, total = told.split("|")
    assert (word, total) == ("BufferDispatched", "2")
    assert chosen == buffer_id or len(chosen) == 32
    assert talk.client.buffer(chosen).wait(60).successful == 2
    assert [result.payload for result in talk.client.buffer(chosen).results()] == ["a", "b"]
    assert completions_of(talk, chosen) == []


def test_an_item_whose_handler_collects_nothing_waits_for_its_response_only(talk: Talk) -> None:
    success, payload = talk.result("planner", start(collect=False, buffer_id="aside"))
    assert (success, payload) == (True, "BufferDispatched: aside|2")
    talk.client.buffer("aside").wait(60)


# The same id again


def test_the_same_start_on_the_same_thread_is_told_again_and_runs_nothing(talk: Talk) -> None:
    assert talk.ask("again", start(buffer_id="twice")) == "again: a|b"
    assert runs_of(talk, "twice") == [0, 1]
    assert completions_of(talk, "twice") == [("buffer_twice", "again", "settled")]
    told = [call for call in talk.calls() if call["message_id"] == "twice/complete"]
    assert len(told) == 2, "delivered twice, with one id"


def test_the_same_start_that_collects_nothing_is_told_again(talk: Talk) -> None:
    assert talk.ask("again", start(buffer_id="twice-aside", collect=False)) == (
        "again: BufferDispatched: twice-aside|2"
    )
    talk.client.buffer("twice-aside").wait(60)
    assert runs_of(talk, "twice-aside") == [0, 1]


OTHER = {
    "items": {"items": [{"say": "c"}]},
    "target": {"target": "work"},
    "collect": {"collect": False},
    "return_to": {"return_to": "summary"},
}


@pytest.mark.parametrize("what", OTHER)
def test_the_same_id_with_other_content_is_refused_and_changes_nothing(talk: Talk, what: str) -> None:
    buffer_id = f"other-{what}"
    first = start(buffer_id=buffer_id)
    todo = {**first, "then": {**first["start"], **OTHER[what]}}
    expected = f"again: BufferError: {buffer_id}|this id is used already, by another start"
    assert talk.ask("again", todo) == expected
    assert row_of(talk, buffer_id)["total"] == 2
    assert runs_of(talk, buffer_id) == [0, 1]


def test_the_same_start_from_another_thread_is_refused(talk: Talk) -> None:
    assert talk.ask("planner", start(buffer_id="mine")) == "a|b"
    refused = "BufferError: mine|this id is used already, by another start"
    assert talk.ask("planner", start(buffer_id="mine")) == refused
    assert talk.ask("planner", start(buffer_id="mine", collect=False)) == refused
    assert runs_of(talk, "mine") == [0, 1]
    assert completions_of(talk, "mine") == [("buffer_mine", "planner", "settled")]


def test_the_id_of_a_clients_buffer_is_refused_to_a_handler(talk: Talk) -> None:
    talk.client.start("inner", [script(item) for item in ITEMS], buffer_id="clients").wait(60)
    talk.client.acknowledge(talk.client.receive(60))
    refused = "BufferError: clients|this id is used already, by another start"
    assert talk.ask("planner", start(buffer_id="clients")) == refused


def test_the_id_of_a_handlers_buffer_is_refused_to_a_client(talk: Talk) -> None:
    """Its thread is content, too, and no client can be on it."""
    assert talk.ask("planner", start(buffer_id="handlers")) == "a|b"
    with pytest.raises(BufferError, match="this id is used already, by a buffer that planner started"):
        items = [script(item) for item in ITEMS]
        talk.client.start("inner", items, buffer_id="handlers", return_to="planner")
    assert runs_of(talk, "handlers") == [0, 1]
    assert completions_of(talk, "handlers") == [("buffer_handlers", "planner", "settled")]


# Refused


LISTENERS = ", ".join(sorted(talking.bus.listeners))
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no items, a given id": ({"items": [], "buffer_id": "none"}, "none|No items specified"),
    "no items, no id": ({"items": []}, "unknown|No items specified"),
    "a text of empty lines": ({"items": "\n\r\n  \n", "buffer_id": "blank"}, "blank|No items specified"),
    "an unknown target": (
        {"target": "nobody", "buffer_id": "lost"},
        f"lost|unknown target 'nobody'; the listeners are: {LISTENERS}",
    ),
    "a mailbox as target": (
        {"target": "cli"},
        f"unknown|unknown target 'cli'; the listeners are: {LISTENERS}",
    ),
    "an unknown return_to": (
        {"return_to": "nobody", "buffer_id": "lost"},
        "lost|unknown return_to 'nobody'",
    ),
    "a reserved id": (
        {"buffer_id": "system.x"},
        "unknown|buffer name 'system.x' begins with a word reserved for the bus (system. or buffer_)",
    ),
    "an id that is no name": (
        {"buffer_id": "a b"},
        "unknown|buffer name 'a b' is not 1 to 100 of A-Z a-z 0-9 _ . -",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_start_that_cannot_be_is_a_buffer_error_for_the_starter(talk: Talk, what: str) -> None:
    changed, error = REFUSED[what]
    before = talk.facts.value("SELECT count(*) FROM buffers")
    assert talk.ask("planner", start(**changed)) == f"BufferError: {error}"
    assert talk.facts.value("SELECT count(*) FROM buffers") == before, "nothing of it is in the journal"


def test_what_else_is_sent_to_system_buffer_is_not_routed(talk: Talk) -> None:
    answer = talk.ask("planner", {"tell": "system.buffer", "payload": {}})
    assert "<code>routing</code>" in answer
    assert "planner sent text to 'system.buffer', which takes a BufferStart as a value: " in answer


def test_a_buffer_start_written_as_xml_starts_nothing_and_is_told_what_would(talk: Talk) -> None:
    text = "<BufferStart><target>inner</target><items>a</items></BufferStart>"
    before = talk.facts.value("SELECT count(*) FROM buffers")
    answer = talk.ask("planner", {"tell": "system.buffer", "xml": text})
    assert "<code>routing</code>" in answer
    assert "planner sent XML to 'system.buffer', which takes a BufferStart as a value: return" in answer
    assert "HandlerResponse(BufferStart(target, items), 'system.buffer')" in answer
    assert talk.facts.value("SELECT count(*) FROM buffers") == before


def test_who_may_not_address_system_buffer_is_told_that_first(talk: Talk) -> None:
    answer = talk.ask("lonely", {"tell": "system.buffer", "payload": {}})
    assert "lonely may not address 'system.buffer': its peers are nobody" in answer


# Items


def test_a_text_is_an_item_a_line(talk: Talk) -> None:
    text = " first \r\n\n\tsecond\n   \nthird"
    assert talk.ask("planner", start(items=text, buffer_id="lines")) == "first|second|third"


def test_a_list_may_hold_every_form(talk: Talk) -> None:
    answer = talk.ask("planner", start(items="every form", buffer_id="forms"))
    assert answer == "plain|a: |b: | <c/> |d: |Order: e"
    items = talk.facts.rows("SELECT payload, is_xml FROM items WHERE buffer_id = 'forms' ORDER BY item_index")
    assert [is_xml for _, is_xml in items] == [0, 1, 0, 1, 1, 1]
    assert items[-1][0] == "<Order><target>e</target></Order>"


@pytest.mark.parametrize("items", ["a\0b", "a\ud800b", "too long"])
def test_an_item_that_cannot_be_journaled_fails_the_start_and_not_the_supervisor(
    talk: Talk, items: str
) -> None:
    answer = talk.ask("planner", start(items=items, buffer_id="unwritable"))
    assert answer.startswith("<SystemError><code>answer</code><message>BufferStart.items cannot be journaled")
    assert talk.facts.rows("SELECT * FROM buffers WHERE buffer_id = 'unwritable'") == []


@pytest.mark.parametrize("payload", ["a\0b", "a\ud800b"], ids=["NUL", "surrogate"])
def test_a_payload_that_cannot_be_journaled_is_not_forwarded(talk: Talk, payload: str) -> None:
    answer = talk.ask("planner", {"tell": "helper", "raw": payload})
    assert answer.startswith("<SystemError><code>answer</code>")


@pytest.mark.parametrize("field", ["target", "return_to", "buffer_id"])
def test_a_start_with_a_name_that_cannot_be_written_is_an_answer_that_failed(talk: Talk, field: str) -> None:
    answer = talk.ask("planner", start(**{field: "a\udcff"}))
    assert answer.startswith(
        f"<SystemError><code>answer</code><message>BufferStart.{field} cannot be written: 'a\\udcff'"
    )
    success, payload = talk.result("planner", start(**{field: "a\udcff"}))
    assert (success, payload) == (False, answer)


def test_a_name_that_cannot_be_written_is_not_forwarded_to(talk: Talk) -> None:
    todo = {"tell": "a\udcff", "payload": {}}
    answer = talk.ask("planner", todo)
    assert answer.startswith(
        "<SystemError><code>answer</code><message>HandlerResponse.to cannot be written: 'a\\udcff'"
    )
    assert talk.result("planner", todo) == (False, answer)


# Nested


def nested(depth: int, width: int) -> dict[str, Any]:
    """An item that starts a buffer of such items, `depth` levels deep; the innermost say their depth."""
    if depth == 0:
        return {"say": "x"}
    return {"start": {"target": "inner", "items": [nested(depth - 1, width)] * width}}


def test_buffers_nest_to_any_depth(talk: Talk) -> None:
    before = talk.facts.value("SELECT count(*) FROM buffers")
    assert talk.ask("planner", nested(6, 2)) == "|".join(["x"] * 64)
    assert talk.facts.value("SELECT count(*) FROM buffers") - before == 63


def test_a_start_within_an_item_fails_as_it_would_anywhere(talk: Talk) -> None:
    success, payload = talk.result("planner", start(target="nobody", buffer_id="never"))
    assert (success, payload) == (
        True,
        f"BufferError: never|unknown target 'nobody'; the listeners are: {LISTENERS}",
    )


def test_the_metadata_of_a_buffer_complete_names_buffer_and_starter(talk: Talk) -> None:
    talk.ask("planner", start(buffer_id="told"))
    (call,) = [call for call in talk.calls() if call["message_id"] == "told/complete"]
    assert (call["from_id"], call["own_name"], call["is_self_call"]) == ("buffer_told", "planner", False)
    assert (call["buffer_id"], call["index"], call["attempt"]) == ("", -1, 1)
    assert call["thread_id"] == row_of(talk, "told")["starter_thread_id"]
