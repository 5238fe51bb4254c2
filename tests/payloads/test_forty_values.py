"""Values of every kind, from a client through the journal to a handler and back by every way out: the same
after conversion to the annotated type, or refused where they were given.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from apps import forty
from apps.forty import CASES, REFUSED, REFUSED_ANSWERS, Case, is_same
from command_line import durable_bus
from support import TESTS, Facts

from durable_bus import Result
from durable_bus.client.client import Client
from durable_bus.errors import LimitExceeded, UsageError
from durable_bus.payloads.forms import FORM_NAMES
from durable_bus.payloads.reading import PayloadType

ITEM_FORMS = "SELECT form FROM items WHERE buffer_id = 'all' ORDER BY item_index"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("forty")
    with forty.bus.running(journal=folder / "journal.db", workers=1) as client:
        for case in CASES:
            client.start(case.name, [case.value], buffer_id=case.name)
        client.start("all", [case.value for case in CASES], buffer_id="all").wait(60)
        for case in CASES:
            client.buffer(case.name).wait(60)
        yield client


def result_of(client: Client, case: Case) -> Result:
    (result,) = client.buffer(case.name).results()
    assert result.success, result.error
    return result


def converted(case: Case, payload: str, form: str) -> Any:
    return PayloadType(case.annotation).load(payload, FORM_NAMES.index(form))


def test_there_are_forty_and_more() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_value_comes_to_its_handler_and_back(client: Client, case: Case) -> None:
    result = result_of(client, case)
    assert is_same(converted(case, result.payload, result.form), case.got)
    if result.form == "json":
        assert result.value == json.loads(result.payload)
    elif result.form == "text":
        assert result.value == result.payload


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_value_is_the_same_in_sql(client: Client, case: Case) -> None:
    facts = Facts(client.journal)
    for view in ("items", "results"):
        ((payload, form, value),) = facts.rows(
            f"SELECT payload, form, json FROM {view} WHERE buffer_id = ?", case.name
        )
        assert is_same(converted(case, payload, form), case.got)
        assert value == (payload if form == "json" else None)
        if form == "json":
            (back,) = facts.rows("SELECT json(?), json_valid(?)", payload, payload)
            assert back[1] == 1


def test_all_values_are_the_same_in_json_lines(client: Client) -> None:
    ran = durable_bus(
        "results", "all", "--journal", client.journal, "--format", "jsonl", "--with-items", cwd=TESTS
    )
    lines = [json.loads(line) for line in ran.out.split("\n") if line]
    forms = [form for (form,) in Facts(client.journal).rows(ITEM_FORMS)]
    assert len(lines) == len(CASES)
    for case, line, form in zip(CASES, lines, forms, strict=True):
        item = json.dumps(line["item"]) if form == "json" else line["item"]
        assert is_same(converted(case, item, form), case.got), case.name
        if form != "xml":  # as an element it comes back, with quotes of its own
            answered = "text" if isinstance(line["item"], str) else form
            assert (line["payload"], line["form"]) == (line["item"], answered)


def test_a_rerun_of_all_values_finds_no_difference(client: Client) -> None:
    command = ["replay", "rerun", "all", "apps.forty:bus", "--journal", client.journal, "--workers", 1]
    ran = durable_bus(*command, "--json", cwd=TESTS)
    assert json.loads(ran.out) == {"compared": len(CASES), "differ": []}


@pytest.mark.parametrize("why", REFUSED)
def test_what_has_no_form_is_refused_where_it_is_given(client: Client, why: str) -> None:
    buffer_id = f"refused-{list(REFUSED).index(why)}"
    with pytest.raises((UsageError, LimitExceeded), match=r"^item 1: ") as refused:
        client.start("dict", [{}, REFUSED[why]], buffer_id=buffer_id)
    assert "\n" not in str(refused.value)
    assert Facts(client.journal).rows("SELECT 1 FROM buffers WHERE buffer_id = ?", buffer_id) == []


def test_what_has_no_form_is_a_failed_result_where_it_is_answered(client: Client) -> None:
    buffer = client.start("refused", list(range(len(REFUSED_ANSWERS))), buffer_id="refused")
    buffer.wait(60)
    for why, result in zip(REFUSED_ANSWERS, buffer.results(), strict=True):
        assert not result.success, why
        assert (result.error or "").startswith("answer: the answer cannot be written: "), (why, result.error)
