"""How results are written: JSON as what it is, with items, as Parquet; and nothing raw on a terminal."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import durable_bus
from support import environment

SHAPE = ("run", "apps.any_value:bus", "shape", "--workers", 1, "--quiet", "--buffer-id", "b")
ITEMS = [{"n": 1, "text": "é"}, {"answer": [1, 2]}, {"answer": "text"}, {"fail": "no"}, {"n": 2.5}]
WHY_SKIPPED = "there is no pyarrow for this Python"


def ran(tmp_path: Path, *arguments: object, items: list[Any] = ITEMS) -> str:
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    done = durable_bus(*SHAPE, "--items", "items.jsonl", *arguments, cwd=tmp_path)
    assert done.code == 1, done.err
    return done.out


def read_parquet(path: Path) -> Any:
    pytest.importorskip("pyarrow", reason=WHY_SKIPPED)
    from pyarrow import parquet

    return parquet.read_table(path)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "results", "export"])
def test_json_is_the_value_in_jsonl_and_items_are_there_when_asked_for(tmp_path: Path, command: str) -> None:
    out = ran(tmp_path, "--format", "jsonl")
    rest = [command, "b"] if command != "run" else [*SHAPE, "--items", "items.jsonl"]
    assert durable_bus(*rest, "--format", "jsonl", cwd=tmp_path).out == out
    lines = [json.loads(line) for line in out.splitlines()]
    names = ["index", "success", "payload", "is_xml", "error", "attempt", "duration_ms", "form"]
    assert all(list(line) == names for line in lines)
    assert [line["payload"] for line in lines if line["form"] == "json"] == [
        {"n": 1, "text": "é"},
        [1, 2],
        "text",
        {"n": 2.5},
    ]
    assert (lines[3]["form"], lines[3]["success"]) == ("xml", False)
    out = durable_bus(*rest, "--format", "jsonl", "--with-items", cwd=tmp_path).out
    assert [json.loads(line)["item"] for line in out.splitlines()] == ITEMS
    assert [list(json.loads(line))[-1] for line in out.splitlines()] == ["item"] * 5


@pytest.mark.slow
def test_csv_has_the_columns_form_and_item(tmp_path: Path) -> None:
    assert "item" not in ran(tmp_path, "--format", "csv").splitlines()[0]
    out = durable_bus("results", "b", "--format", "csv", "--with-items", cwd=tmp_path).out
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["form"] for row in rows] == ["json", "json", "json", "xml", "json"]
    assert [json.loads(row["item"]) for row in rows] == ITEMS
    assert rows[0]["payload"] == '{"n":1,"text":"é"}'


@pytest.mark.slow
def test_items_that_are_no_json_are_their_text(tmp_path: Path) -> None:
    (tmp_path / "items").write_text("plain\n<a>1</a>\n")
    command = ("run", "apps.forms:bus", "guess", "--items", "items", "--format", "jsonl", "--with-items")
    out = durable_bus(*command, cwd=tmp_path).out
    assert [json.loads(line)["item"] for line in out.splitlines()] == ["plain", "<a>1</a>"]


@pytest.mark.slow
def test_the_newest_result_of_each_item_has_its_item_too(tmp_path: Path) -> None:
    ran(tmp_path, "--quiet")
    command = (*SHAPE, "--items", "items.jsonl", "--retry-failed", "--format", "jsonl", "--with-items")
    lines = [json.loads(line) for line in durable_bus(*command, cwd=tmp_path).out.splitlines()]
    assert [line["item"] for line in lines] == ITEMS
    failed = durable_bus("results", "b.retry1", "--format", "jsonl", "--with-items", cwd=tmp_path).out
    assert [json.loads(line)["item"] for line in failed.splitlines()] == [{"fail": "no"}]


@pytest.mark.slow
def test_parquet_has_a_column_a_field(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason=WHY_SKIPPED)
    assert ran(tmp_path, "--format", "parquet", "-o", "out.parquet") == ""
    table = read_parquet(tmp_path / "out.parquet")
    behind = ["payload", "form", "error", "attempt", "duration_ms"]
    assert table.column_names == ["index", "success", "n", "text", *behind]
    assert table.column("n").to_pylist() == [1.0, None, None, None, 2.5]
    assert table.column("payload").to_pylist()[:3] == [None, "[1,2]", '"text"']
    export = ("export", "b", "--format", "parquet", "--with-items", "--output", "items.parquet")
    assert durable_bus(*export, cwd=tmp_path).code == 0
    items = read_parquet(tmp_path / "items.parquet").column("item").to_pylist()
    assert list(map(json.loads, items)) == ITEMS
    failed = ("results", "b", "--failed", "--format", "parquet", "-o", "failed.parquet")
    assert durable_bus(*failed, cwd=tmp_path).code == 1
    assert read_parquet(tmp_path / "failed.parquet").column("index").to_pylist() == [3]
    names = {path.name for path in tmp_path.iterdir() if "parquet" in path.name}
    assert names == {"out.parquet", "items.parquet", "failed.parquet"}  # nothing is left beside them


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--format", "parquet"), "--format parquet is written to a file only: give --output FILE"),
        (("--format", "parquet", "-o", "/dev/stdout"), "--format parquet is written to a file only"),
        (("--with-items",), "the XML document has no place for items; take jsonl, csv or parquet"),
    ],
)
def test_what_cannot_be_written_so_is_said_before_any_work(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "items").write_text("a\n")
    done = durable_bus(*SHAPE, "--items", "items", *arguments, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert says in done.error
    assert [path.name for path in tmp_path.iterdir()] == ["items"]


# A terminal


def on_a_terminal(*arguments: object, cwd: Path) -> bytes:
    """What a command writes to a terminal on its stdout."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "durable_bus", *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    written = b""
    try:
        while piece := os.read(ours, 65_536):
            written += piece
    except OSError:
        pass  # EIO: whoever wrote is gone
    finally:
        os.close(ours)
        process.wait()
    return written


EVIL = "a\x1b]0;owned\x07\x9b31m\u202eb"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("results", "b"),
        ("results", "b", "--format", "jsonl", "--with-items"),
        ("results", "b", "--format", "csv", "--with-items"),
        ("query", "SELECT payload, error FROM results"),
        ("query", "SELECT payload, error FROM results", "--format", "json"),
        ("query", "SELECT payload, error FROM results", "--format", "tsv"),
        ("status",),
        ("status", "b"),
        ("status", "--json"),
        ("status", "b", "--json"),
    ],
    ids=" ".join,
)
def test_nothing_that_a_payload_says_commands_a_terminal(tmp_path: Path, command: tuple[str, ...]) -> None:
    ran(tmp_path, items=[{"fail": EVIL}, {"answer": EVIL}, {"answer": {EVIL: EVIL}}])
    shown = on_a_terminal(*command, cwd=tmp_path)
    assert b"\x1b" not in shown
    assert not any("\x7f" <= character <= "\x9f" for character in shown.decode())
    assert "\u202e" not in shown.decode()
    assert b"\\u001b]0;owned" in shown or command[:2] == ("status", "b"), shown


@pytest.mark.slow
def test_a_pipe_gets_what_is_recorded_and_people_get_escapes(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text(json.dumps(EVIL) + "\n" + json.dumps({"fail": EVIL}) + "\n")
    done = durable_bus(
        "run", "apps.any_value:bus", "echo", "--items", "items.jsonl", "--format", "csv", cwd=tmp_path
    )
    assert EVIL in done.out
    table = durable_bus("query", "SELECT payload FROM results", cwd=tmp_path).out
    assert "a\\u001b]0;owned\\u0007\\u009b31m\\u202eb" in table


# Memory

# Not ru_maxrss: a child begins with what this process had.
ITEMS_TWICE = r"""
import re, sys
from pathlib import Path
from durable_bus.cli.items_file import ItemsFile
with ItemsFile(sys.argv[1]) as items:
    for _ in range(2):
        assert sum(1 for _ in items) == int(sys.argv[2])
print(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""
RESULTS = r"""
import re, sys
from pathlib import Path
from durable_bus.cli.output import Written, write_each
from durable_bus.payloads.messages import Result

def results():
    for index in range(int(sys.argv[2])):
        payload = f'{{"id":{index},"text":"{200 * "x"}","score":{index / 7!r}}}'
        yield Result(index, True, payload, False, None, 1, 0.5, "json", (200 * "y", 0))

write_each(results(), None, Written("parquet", Path(sys.argv[1]), with_items=True))
print(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""


def peak_kib(code: str, *arguments: object) -> int:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def write_rows(path: Path, count: int) -> None:
    """Rows of some 240 characters: 48 MB of 200,000."""
    text = 200 * "x"
    if path.suffix == ".parquet":
        from pyarrow import parquet, table

        parquet.write_table(table({"id": range(count), "text": [text] * count}), path, use_dictionary=False)
    elif path.suffix == ".csv":
        path.write_text("id,text\n" + "".join(f"{index},{text}\n" for index in range(count)))
    else:
        path.write_text("".join(f'{{"id":{index},"text":"{text}"}}\n' for index in range(count)))


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "few_mib"), [("jsonl", 8), ("csv", 8), ("parquet", 40)])
def test_items_are_never_held(tmp_path: Path, ending: str, few_mib: int) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason=WHY_SKIPPED)
    peaks = []
    for count in (2_000, 200_000):
        path = tmp_path / f"{count}.{ending}"
        write_rows(path, count)
        peaks.append(peak_kib(ITEMS_TWICE, path, count))
    assert peaks[1] - peaks[0] < few_mib * 1024


@pytest.mark.slow
def test_parquet_is_written_in_row_groups_and_results_are_never_held(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason=WHY_SKIPPED)
    from pyarrow import parquet

    path = tmp_path / "out.parquet"
    some_kib = peak_kib(RESULTS, path, 50_000)
    assert peak_kib(RESULTS, path, 200_000) - some_kib < 48 * 1024
    file = parquet.ParquetFile(path)
    assert (file.metadata.num_rows, file.metadata.num_row_groups > 3) == (200_000, True)
