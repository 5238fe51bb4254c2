"""The payloads: their fields are the origin's, and their values behave as values."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from lxml import etree

from durable_bus import errors
from durable_bus.errors import UsageError
from durable_bus.payloads import messages
from durable_bus.payloads.messages import (
    BufferComplete,
    BufferStart,
    HandlerMetadata,
    HandlerResponse,
    Result,
    Text,
    Xml,
    check_name,
)

FIELDS = {
    "BufferStart": "target items collect return_to buffer_id",
    "BufferItem": "buffer_id index payload",
    "BufferComplete": "buffer_id total successful results",
    "BufferDispatched": "buffer_id total",
    "BufferError": "buffer_id error",
    "SystemError": "code message retry_allowed",
    "Huh": "error",
    "HandlerMetadata": "thread_id from_id own_name is_self_call message_id attempt buffer_id index",
    "HandlerResponse": "payload to",
}


@pytest.mark.parametrize(("name", "fields"), FIELDS.items())
def test_the_fields_are_those_of_the_origin_in_that_order(name: str, fields: str) -> None:
    declared = [f.name for f in dataclasses.fields(getattr(messages, name)) if not f.name.startswith("_")]
    assert declared == fields.split()


def test_the_buffer_error_payload_is_the_exception() -> None:
    assert messages.BufferError is errors.BufferError


def test_the_defaults_are_those_of_the_origin() -> None:
    assert BufferStart("work", "a") == BufferStart("work", "a", True, "", "")
    assert messages.SystemError("code", "message").retry_allowed is False
    metadata = HandlerMetadata("t", "cli", "work", False, "m", 1)
    assert (metadata.buffer_id, metadata.index) == ("", -1)


def test_payloads_cannot_be_changed() -> None:
    for payload in (BufferStart("work", "a"), Text("a"), Xml("<a/>"), BufferComplete("b", 1, 1)):
        name = type(payload).__match_args__[0]
        with pytest.raises(AttributeError):
            setattr(payload, name, "x")


@pytest.mark.parametrize("wrapper", [Text, Xml])
@pytest.mark.parametrize("value", [None, 3, b"a", Text("a")])
def test_text_and_xml_take_nothing_but_str(wrapper: type, value: object) -> None:
    with pytest.raises(UsageError, match="takes a str, not"):
        wrapper(value)


def test_a_complete_has_its_results_inline_for_a_handler() -> None:
    assert BufferComplete("b", 2, 1).results == ""
    assert BufferComplete("b", 2, 1, "<results/>").results == "<results/>"
    assert (
        BufferComplete("b", 2, 1, "x") == BufferComplete("b", 2, 1, results="x") != BufferComplete("b", 2, 1)
    )


def test_a_complete_of_a_client_reads_its_results_once_and_only_when_asked() -> None:
    reads: list[int] = []

    def read() -> str:
        reads.append(1)
        return "<results/>"

    complete = BufferComplete.reading("b", 2, 1, read)
    assert "results" not in repr(complete)
    assert reads == []
    assert complete.results == complete.results == "<results/>"
    assert complete == BufferComplete("b", 2, 1, "<results/>") == copy.copy(complete)
    assert reads == [1]
    with pytest.raises(AttributeError, match="nothing"):
        complete.nothing  # noqa: B018


def test_a_complete_whose_read_failed_may_be_asked_again() -> None:
    answers: list[str] = []
    complete = BufferComplete.reading("b", 2, 1, lambda: answers[0])
    with pytest.raises(IndexError):
        complete.results  # noqa: B018
    answers.append("<results/>")
    assert complete.results == "<results/>"


def test_metadata_streams_the_results_of_a_complete_and_refuses_otherwise() -> None:
    result = Result(0, True, "a", False, None, 1, 0.5)
    metadata = HandlerMetadata("t", "cli", "work", False, "m", 1, _results=lambda: iter([result]))
    assert list(metadata.results()) == [result]
    assert metadata == HandlerMetadata("t", "cli", "work", False, "m", 1)
    assert "_results" not in repr(metadata)
    with pytest.raises(UsageError, match="BufferComplete"):
        HandlerMetadata("t", "cli", "work", False, "m", 1).results()


def test_what_is_spent_is_handed_on_by_unit_as_finite_floats() -> None:
    told: list[dict[str, float]] = []
    metadata = HandlerMetadata("t", "cli", "work", False, "m", 1, _spend=told.append)
    metadata.spend(usd=0.002, tokens=812)
    metadata.spend(self=0, größe=1)
    assert told == [{"usd": 0.002, "tokens": 812.0}, {"self": 0.0, "größe": 1.0}]
    assert all(type(amount) is float for amounts in told for amount in amounts.values())
    assert metadata == HandlerMetadata("t", "cli", "work", False, "m", 1)
    assert "_spend" not in repr(metadata)


@pytest.mark.parametrize(
    "amounts",
    [
        {},
        {"usd": -0.1},
        {"usd": float("nan")},
        {"usd": float("inf")},
        {"usd": 10**400},
        {"usd": True},
        {"usd": None},
        {"usd": "1"},
        {"us dollars": 1},
        {"": 1},
        {"x" * 51: 1},
        {"usd": 1, "tokens": -1},
    ],
)
def test_amounts_that_cannot_be_are_refused_also_where_no_worker_listens(amounts: dict[str, float]) -> None:
    told: list[dict[str, float]] = []
    for spend in (None, told.append):
        metadata = HandlerMetadata("t", "cli", "work", False, "m", 1, _spend=spend)
        with pytest.raises(UsageError, match=r"^spend\(\): "):
            metadata.spend(**amounts)
    assert told == []


def test_a_metadata_that_no_worker_has_made_only_checks_what_is_spent() -> None:
    HandlerMetadata("t", "cli", "work", False, "m", 1).spend(usd=1)


def test_a_response_goes_back_along_the_thread() -> None:
    assert HandlerResponse.respond("x") == HandlerResponse("x", messages.RESPOND)
    with pytest.raises(UsageError):
        check_name(messages.RESPOND, "listener")


def test_a_result_is_the_line_of_jsonl() -> None:
    line = json.dumps(Result(3, False, "<Huh/>", True, "what", 2, 1.5).to_json())
    assert line == (
        '{"index": 3, "success": false, "payload": "<Huh/>", "is_xml": true, "error": "what", '
        '"attempt": 2, "duration_ms": 1.5, "form": "text"}'
    )


def test_a_result_in_json_has_the_values_that_are_json() -> None:
    result = Result(0, True, '{"a":[1,null]}', False, None, 1, 0.5, "json", {"b": 2})
    assert (result.to_json()["payload"], result.to_json()["item"]) == ({"a": [1, None]}, {"b": 2})
    element = result._replace(item=etree.fromstring("<a><b/></a>"))
    assert element.to_json()["item"] == "<a><b/></a>"
    assert result._replace(item={1}).to_json()["item"] == "{1}"


@pytest.mark.parametrize("name", ["a", "A-1_b.c", "x" * 100, "system", "buffer", "..."])
def test_a_name_may_be(name: str) -> None:
    assert check_name(name, "listener") == name


@pytest.mark.parametrize(
    "name", ["", "x" * 101, "a b", "a\n", "ä", "a/b", "system.buffer", "buffer_b1_w0", None, 3, b"a", "a\0"]
)
def test_a_name_may_not_be(name: object) -> None:
    with pytest.raises(UsageError, match="mailbox name") as caught:
        check_name(name, "mailbox")
    assert "\n" not in str(caught.value)
