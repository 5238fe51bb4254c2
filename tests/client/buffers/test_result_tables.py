"""Results with their items, and as tables: `Buffer.results(with_items=True)`, `to_arrow`, `to_pandas`."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from apps import any_value
from lxml import etree

from durable_bus import Json, Text, Xml
from durable_bus.client.client import Client
from durable_bus.client.result_table import FIELDS_MAX, ResultTable
from durable_bus.payloads.messages import Result

pa = pytest.importorskip("pyarrow", reason="there is no pyarrow for this Python")
BEHIND = ["payload", "form", "error", "attempt", "duration_ms"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with any_value.bus.running(tmp_path_factory.mktemp("tables") / "journal.db", workers=1) as client:
        yield client


def result(index: int, value: object) -> Result:
    return Result(index, True, json.dumps(value), False, None, 1, 0.5, "json")


def table_of(values: list[object], monkeypatch: pytest.MonkeyPatch, rows_max: int = 8_192) -> Any:
    monkeypatch.setattr("durable_bus.client.result_table._BATCH_ROWS_MAX", rows_max)
    table = ResultTable(list(map(result, range(len(values)), values)))
    return pa.Table.from_batches(table.batches(), table.schema)


def test_an_item_is_decoded_as_a_value_is(client: Client) -> None:
    items = [{"a": [1]}, None, 7, Text("<3"), "plain", "<a>1</a>", Xml("<a>"), Json("s")]
    buffer = client.start("echo", items)
    buffer.wait(60)
    assert all(one.item is None for one in buffer.results())
    given = [one.item for one in buffer.results(with_items=True)]
    assert etree.tostring(given.pop(5)) == b"<a>1</a>"
    assert given == [{"a": [1]}, None, 7, "<3", "plain", "<a>", "s"]  # a malformed one is its text


def test_to_json_has_plain_values(client: Client) -> None:
    buffer = client.start("echo", [{"a": 1}, "<a><b/></a>", "text"])
    buffer.wait(60)
    told = [one.to_json() for one in buffer.results(with_items=True)]
    assert json.loads(json.dumps(told)) == told
    assert [(one["payload"], one["item"]) for one in told] == [
        ({"a": 1}, {"a": 1}),
        ("<a><b/></a>", "<a><b/></a>"),
        ("text", "text"),
    ]
    assert ["item" in one.to_json() for one in buffer.results()] == [False] * 3


def test_objects_are_columns_and_all_else_is_in_payload(client: Client) -> None:
    items = [{"name": "x", "n": 1}, {"answer": [1, 2]}, {"fail": "no"}, {"n": 2, "more": {"deep": True}}]
    buffer = client.start("shape", items, buffer_id="objects")
    buffer.wait(60)
    table = buffer.to_arrow(with_items=True)
    assert table.column_names == ["index", "success", "name", "n", "more", *BEHIND, "item"]
    rows = table.to_pylist()
    assert [row["name"] for row in rows] == ["x", None, None, None]
    assert [row["n"] for row in rows] == [1, None, None, 2]
    assert rows[3]["more"] == {"deep": True}
    assert [row["form"] for row in rows] == ["json", "json", "xml", "json"]
    assert (rows[0]["payload"], rows[1]["payload"]) == (None, "[1,2]")
    assert rows[2]["payload"].startswith("<SystemError>")
    assert (rows[2]["success"], rows[2]["error"]) == (False, "exception: ValueError: no")
    assert [json.loads(row["item"]) for row in rows] == items
    assert buffer.to_arrow().column_names == table.column_names[:-1]


def test_a_data_frame_keeps_whole_numbers_and_booleans_beside_nulls(client: Client) -> None:
    pytest.importorskip("pandas", reason="there is no pandas for this Python")
    items = [{"n": 2**60 + 1, "flag": True, "x": 0.5}, {"fail": "no"}]
    buffer = client.start("shape", items)
    buffer.wait(60)
    frame = buffer.to_pandas()
    assert list(frame.columns) == buffer.to_arrow().column_names
    assert (frame["n"][0], str(frame["n"].dtype), str(frame["flag"].dtype)) == (2**60 + 1, "Int64", "boolean")
    assert (str(frame["index"].dtype), str(frame["success"].dtype)) == ("int64", "bool")
    assert frame["success"].mean() == 0.5


def test_no_results_are_an_empty_table() -> None:
    empty = ResultTable([])
    assert empty.schema.names == ["index", "success", *BEHIND]
    assert list(empty.batches()) == []


@pytest.mark.parametrize("rows_max", [8_192, 1])
@pytest.mark.parametrize(
    ("values", "kind", "are"),
    [
        ([1, 2.5], "double", [1.0, 2.5]),
        ([2**60 + 1, 0.5], "string", ["1152921504606846977", "0.5"]),
        ([1, "x"], "string", ["1", '"x"']),
        ([True, 1], "string", ["true", "1"]),
        ([None, 1], "int64", [None, 1]),
        ([2**63 + 1, 1], "string", ["9223372036854775809", "1"]),
        ([[], [1]], "list<item: int64>", [[], [1]]),
        ([[1], "x"], "string", ["[1]", '"x"']),
        ([{}, {"a": 1}], "struct<a: int64>", [{"a": None}, {"a": 1}]),
        ([{}, {}], "string", ["{}", "{}"]),
        ([{"a": 1}, {"b": "x"}], "struct<a: int64, b: string>", [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
        ([{"a": 1}, {"a": "x"}], "string", ['{"a":1}', '{"a":"x"}']),
        ([{"a": 1}, [1]], "string", ['{"a":1}', "[1]"]),
        (["é\x00", "2026-01-02"], "string", ["é\x00", "2026-01-02"]),
    ],
    ids=range(14),
)
def test_a_field_has_one_type_or_is_json_text_wherever_batches_end(
    values: list[object], kind: str, are: list[object], rows_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of([{"f": value} for value in values], monkeypatch, rows_max)
    assert (str(table.schema.field("f").type), table.column("f").to_pylist()) == (kind, are)


def test_a_field_called_as_a_column_gets_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of([{"index": "i", "error": 1, "item": 2, "payload.index": "p", "": 0}], monkeypatch)
    fields = ["payload.payload.index", "payload.error", "item", "payload.index", ""]
    assert table.column_names == ["index", "success", *fields, *BEHIND]
    assert [table.column(name)[0].as_py() for name in fields] == ["i", 1, 2, "p", 0]


@pytest.mark.parametrize("rows_max", [8_192, 10])
def test_names_that_are_data_make_no_columns(rows_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[object] = [{f"name {index}": 1} for index in range(FIELDS_MAX + 1)]
    wide = table_of(values, monkeypatch, rows_max)
    assert wide.column_names == ["index", "success", *BEHIND]
    assert [json.loads(text) for text in wide.column("payload").to_pylist()] == values
    inside = table_of([{"by_name": value} for value in values], monkeypatch, rows_max)
    assert str(inside.schema.field("by_name").type) == "string"
    assert inside.column("by_name")[7].as_py() == '{"name 7":1}'
