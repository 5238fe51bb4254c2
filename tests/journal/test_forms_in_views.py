"""A payload of each form, as a writer puts it into the journal and as every view shows it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from journal_rows import add_buffer
from support import Facts

from durable_bus.errors import StorageFailed
from durable_bus.journal.journal import Journal
from durable_bus.journal.messages import NewMessage
from durable_bus.journal.work import Failure
from durable_bus.payloads.forms import FORM_NAMES, JSON, TEXT, XML

PAYLOADS = ["plain <text>", "<a/>", '{"score":0.5,"name":"zwölf"}', "gASVBQAAAAAAAABLBS4="]
AS_JSON = [None, None, PAYLOADS[JSON], None]


@pytest.fixture
def opened(journal: Path) -> Iterator[Journal]:
    with closing(Journal.open(journal)) as opened:
        with opened.commit(1):
            opened.start_run(1, "forms", "0")
        yield opened


def answer(
    opened: Journal, buffer_seq: int, index: int, payload: str, form: int, success: bool = True
) -> None:
    facts = {"buffer_seq": buffer_seq, "success": success, "form": form, "attempt": 1}
    assert opened.work.record_result(index=index, payload=payload, **facts)


def test_views_say_the_form_of_a_payload_and_give_json_by_itself(opened: Journal, facts: Facts) -> None:
    with opened.commit(2):
        seq = add_buffer(opened, "b", PAYLOADS, "0123")
        for form, payload in enumerate(PAYLOADS):
            answer(opened, seq, form, payload, form)
            opened.messages.add(f"m{form}", NewMessage("a", "b", "t", payload, form))
    expected = [
        (payload, int(form == XML), name, json)
        for form, (payload, name, json) in enumerate(zip(PAYLOADS, FORM_NAMES, AS_JSON, strict=True))
    ]
    columns = "payload, is_xml, form, json"
    assert facts.rows(f"SELECT {columns} FROM items ORDER BY item_index") == expected
    assert facts.rows(f"SELECT {columns} FROM results ORDER BY item_index") == expected
    assert facts.rows(f"SELECT {columns} FROM messages ORDER BY message_id") == expected
    assert facts.rows("SELECT kind FROM messages ORDER BY message_id") == [
        ("text",),
        ("a",),
        ("json",),
        ("pickle",),
    ]


def test_a_message_is_xml_unless_it_is_said_otherwise(opened: Journal, facts: Facts) -> None:
    with opened.commit(2):
        opened.messages.add("m", NewMessage("a", "b", "t", "<huh/>"))
    row = opened.messages.by_id("m")
    assert row is not None
    assert (row.form, row.kind) == (XML, "huh")


def test_a_field_of_json_is_asked_of_all_rows_whatever_else_they_hold(opened: Journal, facts: Facts) -> None:
    """Failures are XML, an answer may be text that looks like broken JSON: neither is an error."""
    with opened.commit(2):
        seq = add_buffer(opened, "b", ["a", "b", "c", "d", "e"], "0")
        answer(opened, seq, 0, '{"score":0.5}', JSON)
        answer(opened, seq, 1, '{"score":', TEXT)
        answer(opened, seq, 2, "<SystemError/>", XML, success=False)
        answer(opened, seq, 3, "null", JSON)
        answer(opened, seq, 4, '{"score":"high"}', JSON)
    assert facts.rows("SELECT json ->> '$.score' FROM results ORDER BY item_index") == [
        (0.5,),
        (None,),
        (None,),
        (None,),
        ("high",),
    ]
    assert facts.rows("SELECT item_index FROM results WHERE json ->> '$.score' = 'high'") == [(4,)]


def test_an_item_has_one_key_in_every_view_and_the_next_has_the_next(opened: Journal, facts: Facts) -> None:
    with opened.commit(2):
        for buffer_id in ("before", "b", "behind"):
            seq = add_buffer(opened, buffer_id, [f"{buffer_id} {index}" for index in range(20)], "0")
            for index in range(0, 20, 2):
                answer(opened, seq, index, f"did {buffer_id} {index}", TEXT)
            for index in range(0, 20, 3):
                opened.work.record_failure(Failure("exception", f"{buffer_id} {index}"), 1, item=(seq, index))
        opened.messages.add("m", NewMessage("a", "b", "t", "<a/>"))
        opened.work.record_failure(Failure("exception", "m"), 1, message_seq=1)
    pairs = facts.rows("SELECT 'did ' || i.payload, r.payload FROM items i JOIN results r USING (item_key)")
    assert len(pairs) == 30
    assert [item for item, _ in pairs] == [answered for _, answered in pairs]
    pairs = facts.rows("SELECT i.payload, f.message FROM items i JOIN failures f USING (item_key)")
    assert len(pairs) == 21
    assert [item for item, _ in pairs] == [failed for _, failed in pairs]
    (first,), *_ = facts.rows("SELECT item_key FROM items WHERE buffer_id = 'b' ORDER BY item_index")
    for view, column, said in [
        ("items", "payload", "b 18"),
        ("results", "payload", "did b 18"),
        ("failures", "message", "b 18"),
    ]:
        found = facts.rows(
            f"SELECT buffer_id, item_index, {column} FROM {view} WHERE item_key = {first} + 18"
        )
        assert found == [("b", 18, said)]
    assert facts.rows("SELECT message FROM failures WHERE item_key IS NULL") == [("m",)]


@pytest.mark.parametrize("table", ["item", "result", "message"])
def test_no_table_takes_a_fifth_form(opened: Journal, table: str) -> None:
    with opened.commit(2):
        seq = add_buffer(opened, "b", ["a"], "0")
        answer(opened, seq, 0, "a", TEXT)
        opened.messages.add("m", NewMessage("a", "b", "t", "<a/>"))
    for form in (-1, 4, "json"):
        with pytest.raises(StorageFailed, match=r"form_is_known|cannot store TEXT"), opened.commit(3):
            opened.connection.execute(f"UPDATE {table} SET form = ?", (form,))
    for form in range(4):
        with opened.commit(4):
            opened.connection.execute(f"UPDATE {table} SET form = ?", (form,))
