"""`--items` as JSON lines, CSV and Parquet: what the items are, what is refused and where, and how little is
held.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import durable_bus
from support import Facts

ECHO = ("run", "apps.any_value:bus", "echo", "--workers", 1, "--quiet", "--format", "jsonl", "--with-items")
MIB = 1024 * 1024
DEEP = b"[" * 257 + b"]" * 257
WHY_SKIPPED = "there is no pyarrow for this Python"


def items_of(tmp_path: Path, name: str, *arguments: object, stdin: bytes = b"") -> list[Any]:
    """The items as the journal has them, by one run of the command."""
    ran = durable_bus(*ECHO, "--items", name, *arguments, cwd=tmp_path, stdin=stdin)
    assert ran.code == 0, ran.err
    return [json.loads(line)["item"] for line in ran.out.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["docs.jsonl", "DOCS.NDJSON"])
def test_a_line_of_jsonl_is_a_json_value_kept_as_it_is_written(
    tmp_path: Path, facts: Facts, name: str
) -> None:
    (tmp_path / name).write_bytes(
        b'\xef\xbb\xbf{"b": 1.50, "a": [null, true]}\r\n\n  \t\n[1]\n"text"\nnull\n1180591620717411303424'
    )
    assert len(items_of(tmp_path, name)) == 5
    assert facts.rows("SELECT payload, form FROM items ORDER BY item_index") == [
        ('{"b":1.50,"a":[null,true]}', "json"),
        ("[1]", "json"),
        ('"text"', "json"),
        ("null", "json"),
        ("1180591620717411303424", "json"),
    ]


@pytest.mark.slow
def test_a_row_of_csv_is_an_object_of_strings_named_by_the_header(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_bytes(
        b'\xef\xbb\xbfname,age,note\r\n"Li, M.",42,"two\nlines ""quoted"" and\rcr"\r\n\r\n\xc3\xa9,,\n'
    )
    assert items_of(tmp_path, "people.csv") == [
        {"name": "Li, M.", "age": "42", "note": 'two\nlines "quoted" and\rcr'},
        {"name": "é", "age": "", "note": ""},
    ]


@pytest.mark.slow
def test_the_format_can_be_said_and_stdin_is_lines_unless_it_is(tmp_path: Path) -> None:
    data = b"a,b\n1,2\n"
    assert items_of(tmp_path, "-", stdin=data) == ["a,b", "1,2"]
    assert items_of(tmp_path, "-", "--items-format", "csv", stdin=data) == [{"a": "1", "b": "2"}]
    (tmp_path / "x.csv").write_bytes(data)
    assert items_of(tmp_path, "x.csv", "--items-format", "lines") == ["a,b", "1,2"]


@pytest.mark.slow
def test_the_same_items_are_the_same_buffer_from_a_file_and_from_stdin(tmp_path: Path, facts: Facts) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    first = items_of(tmp_path, "a.jsonl")
    assert items_of(tmp_path, "-", "--items-format", "jsonl", stdin=b'{"a":1}') == first
    assert facts.rows("SELECT count(*) FROM buffers") == [(1,)]
    assert items_of(tmp_path, "-", stdin=b'{"a":1}') == ['{"a":1}']  # text is another item
    assert facts.rows("SELECT count(*) FROM buffers") == [(2,)]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.jsonl", b'{"a":1}\n\n{"a":}\n', "line 3 of a.jsonl: not JSON: invalid character (byte 5)"),
        ("a.jsonl", b"1\n2 3\n", "line 2 of a.jsonl: not JSON: trailing characters"),
        ("a.jsonl", b"1\nNaN\n", "line 2 of a.jsonl: not JSON: invalid character (byte 0)"),
        ("a.jsonl", b'1\n"\\ud800"\n', "line 2 of a.jsonl: not JSON"),
        ("a.jsonl", b"1\n" + DEEP, "line 2 of a.jsonl: JSON nested deeper than 256"),
        ("a.jsonl", b"[" * MIB + b"\n", "line 1 of a.jsonl: not JSON: nested deeper than 256"),
        ("a.jsonl", b'1\n"caf\xe9"', "a.jsonl is not UTF-8: line 2"),
        ("a.jsonl", b"1\n" + b'"' + b"x" * 8 * MIB + b'"', "line 2 of a.jsonl is over the limit of 8388608"),
        ("a.jsonl", b"\n\n", "No items specified"),
        ("a.csv", b"", "a.csv has no header: its first line names the fields"),
        ("a.csv", b"a,b\n", "No items specified"),
        ("a.csv", b"a,,c\n1,2,3\n", "line 1 of a.csv, the header, has no name for field 2"),
        ("a.csv", b"a,b,a\n1,2,3\n", "line 1 of a.csv, the header, has the name 'a' twice"),
        ("a.csv", b'a,b\n"x\ny",2\n1\n', "line 4 of a.csv has 1 field, its header has 2"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "line 3 of a.csv has 3 fields, its header has 2"),
        ("a.csv", b'a,b\n1,2\n1,"2\n3\n', "line 3 of a.csv is not CSV: a quote is never closed"),
        ("a.csv", b'a,b\n"1"x,2\n', "line 2 of a.csv is not CSV: a closing quote is followed by"),
        ("a.csv", b"a,b\n1\r2,3\n", "line 2 of a.csv is not CSV: a carriage return"),
        ("a.csv", b'a,b\n1,"\n\xff"\n', "a.csv is not UTF-8: line 3"),
        ("a.csv", b"a\n" + b"x" * (8 * MIB + 1), "line 2 of a.csv is over the limit of 8388608"),
        ("a.csv", b"a\n" + b"\x01" * 2 * MIB, "line 2 of a.csv is over the limit of 8388608"),
        ("a.csv", b'a,b\n1,"' + b"x\n" * 5 * MIB, "the row from line 2 of a.csv on is over the limit"),
    ],
    ids=range(22),
)
def test_what_cannot_be_taken_is_named_by_file_and_line(
    tmp_path: Path, name: str, data: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(data)
    ran = durable_bus(*ECHO, "--items", name, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.error
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_long_lines_just_under_the_limit_are_taken(tmp_path: Path, facts: Facts) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'"' + b"x" * (8 * MIB - 2) + b'"\n')
    (tmp_path / "a.csv").write_bytes(b"a\n" + b"x" * (8 * MIB - 8) + b"\n")
    for name in ("a.jsonl", "a.csv"):
        ran = durable_bus(*ECHO, "--items", name, cwd=tmp_path)
        assert (ran.code, ran.err) == (0, "")
    assert facts.rows("SELECT length(payload) FROM items") == [(8 * MIB,)] * 2


# Parquet


@pytest.mark.slow
def test_a_row_of_parquet_is_an_object_its_columns_in_order(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason=WHY_SKIPPED)
    import datetime
    import decimal

    from pyarrow import parquet

    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 6000)
    table = pa.table(
        {
            "z": pa.array([1, None]),
            "text": ["é", "\x01"],
            "list": [[1.5], []],
            "object": [{"a": 1}, None],
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            "time": pa.array([moment, None], pa.timestamp("ns")),
            "utc": pa.array([moment, None], pa.timestamp("us", "UTC")),
            "bytes": [b"ab", None],
            "decimal": [decimal.Decimal("1.10"), None],
            "word": pa.array(["w", "w"]).dictionary_encode(),
        }
    )
    parquet.write_table(table, tmp_path / "rows.parquet")
    first, second = items_of(tmp_path, "rows.parquet")
    assert first == {
        "z": 1,
        "text": "é",
        "list": [1.5],
        "object": {"a": 1},
        "map": {"k": 1},
        "time": "2026-01-02T03:04:05.006000",
        "utc": "2026-01-02T03:04:05.006000Z",
        "bytes": "YWI=",
        "decimal": "1.10",
        "word": "w",
    }
    assert list(first) == list(second) == table.column_names
    assert (second["z"], second["list"], second["map"]) == (None, [], None)
    assert items_of(
        tmp_path, "-", "--items-format", "parquet", stdin=(tmp_path / "rows.parquet").read_bytes()
    ) == [first, second]


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (lambda pa: pa.array([1.0, 2.0, float("nan")]), "row 3 of a.parquet, column 'x': nan"),
        (lambda pa: pa.array([[1.0], [float("inf")]]), "row 2 of a.parquet, column 'x': at [0]: inf"),
        (lambda pa: pa.array([0, 1001], pa.timestamp("ns")), "row 2 of a.parquet, column 'x': Casting"),
        (
            lambda pa: pa.array([[(1, 1)]], pa.map_(pa.int64(), pa.int64())),
            "row 1 of a.parquet, column 'x': ",
        ),
        (
            lambda pa: pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64())),
            "row 1 of a.parquet, column 'x': ",
        ),
        (
            lambda pa: pa.array([10**18], pa.timestamp("ms")),
            "row 1 of a.parquet, column 'x': ",
        ),
        (lambda pa: pa.array(["", "x" * 8 * MIB]), "row 2 of a.parquet is over the limit of 8388608 bytes"),
    ],
    ids=range(7),
)
def test_what_json_cannot_hold_is_named_by_row_and_column(tmp_path: Path, column: Any, says: str) -> None:
    pa = pytest.importorskip("pyarrow", reason=WHY_SKIPPED)
    from pyarrow import parquet

    values = column(pa)
    table = pa.table({"good": ["fine"] * len(values), "x": values})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    ran = durable_bus(*ECHO, "--items", "a.parquet", cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.error


def test_what_is_no_parquet_and_columns_of_the_same_name_are_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason=WHY_SKIPPED)
    from pyarrow import parquet

    (tmp_path / "a.parquet").write_bytes(b"a,b\n1,2\n" * 10)
    error = durable_bus(*ECHO, "--items", "a.parquet", cwd=tmp_path).error
    assert error.startswith("a.parquet cannot be read as Parquet: ")
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    parquet.write_table(table, tmp_path / "a.parquet")
    error = durable_bus(*ECHO, "--items", "a.parquet", cwd=tmp_path).error
    assert error == "a.parquet has the column 'x' twice"
