"""`durable-bus run`: a fan-out by one command, and the same command again."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Command, durable_bus, write_items
from support import PATIENCE_S, Facts, RunLog, environment, kill

ECHO = ("run", "apps.plain:bus", "echo", "--workers", 2)
READ = ("run", "apps.reading:bus", "read", "--workers", 1)


def test_results_come_in_item_order_on_stdout(tmp_path: Path, facts: Facts) -> None:
    items = write_items(tmp_path, *range(300))
    ran = durable_bus(*ECHO, "--items", items, cwd=tmp_path)
    assert ran.code == 0
    inside = "".join(f'<item index="{i}" success="true">{i}</item>' for i in range(300))
    assert ran.out == f"<results>{inside}</results>\n"
    assert facts.value("SELECT state FROM buffers") == "complete"


def test_a_failed_item_is_a_result_and_exit_code_1(tmp_path: Path) -> None:
    items = write_items(tmp_path, tmp_path / "here", tmp_path / "missing")
    (tmp_path / "here").write_text("hello")
    ran = durable_bus(*READ, "--items", items, "--format", "jsonl", cwd=tmp_path)
    assert ran.code == 1
    good, bad = map(json.loads, ran.out.splitlines())
    assert (good["index"], good["success"], good["payload"], good["error"]) == (0, True, "hello", None)
    assert (bad["index"], bad["success"]) == (1, False)
    assert bad["error"].startswith("exception: FileNotFoundError")
    assert "<code>exception</code>" in bad["payload"]


@pytest.mark.slow
def test_malformed_xml_and_a_doctype_are_failed_items_and_the_others_run(
    tmp_path: Path, facts: Facts
) -> None:
    items = write_items(tmp_path, "<a>", "<a/>", "<!DOCTYPE a><a/>", "text")
    ran = durable_bus("run", "apps.forms:bus", "element", "--items", items, "--format", "jsonl", cwd=tmp_path)
    assert ran.code == 1
    results = [json.loads(line) for line in ran.out.splitlines()]
    assert [result["success"] for result in results] == [False, True, False, True]
    assert facts.rows("SELECT item_index, kind FROM failures ORDER BY 1") == [
        (0, "malformed"),
        (2, "malformed"),
    ]


@pytest.mark.slow
def test_the_same_command_again_prints_the_records_and_starts_nothing(
    tmp_path: Path, facts: Facts, run_log: RunLog
) -> None:
    items = write_items(tmp_path, *range(50))
    first = durable_bus(*ECHO, "--items", items, cwd=tmp_path)
    second = durable_bus(*ECHO, "--items", items, cwd=tmp_path)
    assert (second.code, second.out) == (first.code, first.out)
    assert "recorded before" in second.err
    assert facts.value("SELECT count(*) FROM runs") == 1
    assert len(run_log.runs()) == 50


@pytest.mark.slow
def test_other_items_are_another_buffer(tmp_path: Path, facts: Facts) -> None:
    for count in (10, 20):
        items = write_items(tmp_path, *range(count))
        assert durable_bus(*ECHO, "--items", items, cwd=tmp_path).code == 0
    assert facts.rows("SELECT total FROM buffers ORDER BY total") == [(10,), (20,)]


@pytest.mark.slow
def test_csv_has_a_heading_and_a_row_an_item(tmp_path: Path) -> None:
    items = write_items(tmp_path, "plain", 'a "quoted", text')
    ran = durable_bus(*ECHO, "--items", items, "--format", "csv", cwd=tmp_path)
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert [row["index"] for row in rows] == ["0", "1"]
    assert [row["payload"] for row in rows] == ["plain", 'a "quoted", text']
    assert [(row["success"], row["is_xml"], row["error"]) for row in rows] == [("true", "false", "")] * 2


@pytest.mark.slow
def test_items_are_split_at_line_feeds_only_and_stripped(tmp_path: Path) -> None:
    given = "\ufefffirst\r\n\n  a\u2028b\x85c  \n\t\nlast".encode()
    ran = durable_bus(*ECHO, "--items", "-", "--format", "jsonl", cwd=tmp_path, stdin=given)
    assert [json.loads(line)["payload"] for line in ran.out.split("\n")[:-1]] == [
        "first",
        "a\u2028b\x85c",
        "last",
    ]


@pytest.mark.slow
def test_items_from_stdin_and_from_a_file_are_the_same_buffer(tmp_path: Path, facts: Facts) -> None:
    items = write_items(tmp_path, *range(20))
    first = durable_bus(*ECHO, "--items", items, cwd=tmp_path)
    assert durable_bus(*ECHO, "--items", "-", cwd=tmp_path, stdin=items.read_bytes()).out == first.out
    assert facts.value("SELECT count(*) FROM buffers") == 1


@pytest.mark.slow
def test_files_beside_the_app_are_not_imported_in_place_of_pythons_own(tmp_path: Path) -> None:
    """The app is found in the current folder, but by workers alone, and what is theirs comes first."""
    for name in ("secrets", "selectors", "json", "mmap"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not for the supervisor')")
    (tmp_path / "mine.py").write_text(
        "from durable_bus import Bus\n"
        "bus = Bus('mine')\n"
        "@bus.listener('echo')\n"
        "def echo(text: str) -> str: return text\n"
    )
    items = write_items(tmp_path, "a")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "durable_bus", "run", "mine:bus", "echo", "--items", items],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == '<results><item index="0" success="true">a</item></results>\n'


@pytest.mark.slow
def test_folders_and_journals_may_have_names_that_are_not_utf_8(tmp_path: Path) -> None:
    """Handlers and errors may name them, too."""
    folder = tmp_path / os.fsdecode(b"f\xe9")
    folder.mkdir()
    (folder / "mine.py").write_text(
        "from durable_bus import Bus\n"
        "bus = Bus('mine')\n"
        "@bus.listener('echo')\n"
        "def echo(text: str) -> str: return text\n"
        "@bus.listener('fail')\n"
        "def fail(text: str) -> str: raise ValueError(__file__)\n"
    )
    (folder / "broken.py").write_text("raise ValueError(__file__)\n")
    items = ("--items", write_items(folder, "a"), "--journal", os.fsdecode(b"caf\xe9.db"))
    results = '<results><item index="0" success="true">a</item></results>\n'
    for _ in range(2):
        ran = durable_bus("run", "mine:bus", "echo", *items, cwd=folder)
        assert (ran.code, ran.out) == (0, results), ran.err
    assert (folder / os.fsdecode(b"caf\xe9.db")).exists()
    ran = durable_bus("run", "mine:bus", "fail", "--format", "jsonl", *items, cwd=folder)
    assert ran.code == 1, ran.err
    assert json.loads(ran.out)["error"].startswith("exception: ValueError: ")
    assert json.loads(ran.out)["error"].endswith("f\\udce9/mine.py")
    ran = durable_bus("run", "broken:bus", "echo", *items, cwd=folder)
    assert ran.code == 2
    assert ran.error.endswith("f\\udce9/broken.py (broken.py, line 1)")
    refused = folder / os.fsdecode(b"\xe9.db")
    refused.write_bytes(b"no database" * 100)
    ran = durable_bus("run", "mine:bus", "echo", *items[:2], "--journal", refused, cwd=folder)
    assert ran.code == 5
    assert "is not a durable_bus journal" in ran.error


@pytest.mark.slow
def test_output_replaces_the_file_and_stdout_stays_empty(tmp_path: Path) -> None:
    items, output = write_items(tmp_path, "one"), tmp_path / "results.xml"
    output.write_text("old")
    (tmp_path / "link").symlink_to(output)
    ran = durable_bus(*ECHO, "--items", items, "--output", tmp_path / "link", cwd=tmp_path)
    assert (ran.code, ran.out) == (0, "")
    assert output.read_text() == '<results><item index="0" success="true">one</item></results>\n'
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.slow
def test_quiet_says_nothing(tmp_path: Path) -> None:
    items = write_items(tmp_path, "one")
    assert durable_bus(*ECHO, "--items", items, "--quiet", cwd=tmp_path).err == ""


@pytest.mark.slow
def test_progress_without_a_terminal_is_plain_lines(tmp_path: Path, facts: Facts) -> None:
    items = write_items(tmp_path, *["0.1"] * 60)
    ran = durable_bus("run", "apps.plain:bus", "sleep", "--workers", 1, "--items", items, cwd=tmp_path)
    lines = [line for line in ran.err.splitlines() if " of 60, " in line]
    assert lines
    assert all(line.startswith("durable-bus: sleep-") for line in lines)
    assert "\x1b" not in ran.err


# Failed items


@pytest.mark.slow
def test_retry_failed_prints_the_newest_result_of_each_item(tmp_path: Path, facts: Facts) -> None:
    names = [tmp_path / name for name in ("a", "b", "c", "d")]
    items = write_items(tmp_path, *names)
    command = (*READ, "--items", items, "--format", "jsonl", "--buffer-id", "files")
    names[1].write_text("b")
    assert durable_bus(*command, cwd=tmp_path).code == 1

    names[3].write_text("d")
    again = durable_bus(*command, "--retry-failed", cwd=tmp_path)
    assert again.code == 1
    assert _payloads(again.out) == [None, "b", None, "d"]

    names[0].write_text("a")
    names[2].write_text("c")
    whole = durable_bus(*command, "--retry-failed", cwd=tmp_path)
    assert whole.code == 0
    assert _payloads(whole.out) == ["a", "b", "c", "d"]
    assert facts.rows("SELECT buffer_id, total, successful, retry_of FROM buffers ORDER BY created_at") == [
        ("files", 4, 1, None),
        ("files.retry1", 3, 1, "files"),
        ("files.retry2", 2, 2, "files.retry1"),
    ]

    runs = facts.value("SELECT count(*) FROM runs")
    assert durable_bus(*command, "--retry-failed", cwd=tmp_path).out == whole.out
    assert durable_bus(*command, cwd=tmp_path).out == whole.out
    assert facts.value("SELECT count(*) FROM runs") == runs


def _payloads(lines: str) -> list[str | None]:
    """Of successes; None for a failure. Indexes must be those of the first buffer."""
    results = [json.loads(line) for line in lines.splitlines()]
    assert [result["index"] for result in results] == list(range(len(results)))
    return [result["payload"] if result["success"] else None for result in results]


@pytest.mark.slow
def test_max_failures_stops_early_and_a_higher_limit_goes_on(tmp_path: Path, facts: Facts) -> None:
    items = write_items(tmp_path, "no number", "nor this", *["0.1"] * 40)
    command = ("run", "apps.plain:bus", "sleep", "--workers", 1, "--items", items, "--buffer-id", "b")
    stopped = durable_bus(*command, "--max-failures", 1, cwd=tmp_path)
    assert (stopped.code, stopped.out) == (1, "")
    assert "2 items have failed, --max-failures is 1" in stopped.err
    assert facts.value("SELECT completed < total FROM buffers") == 1
    recorded = facts.value("SELECT completed FROM buffers")
    assert f"; {recorded} of 42 are recorded" in stopped.err, "also what was still running then"

    refused = durable_bus(*command, "--max-failures", 1, cwd=tmp_path)
    assert (refused.code, refused.out) == (1, "")
    assert "a higher limit goes on" in refused.err
    assert facts.value("SELECT count(*) FROM runs") == 1

    assert durable_bus(*command, "--max-failures", 2, cwd=tmp_path).code == 1
    facts.assert_whole("b", 42, failed=2)


@pytest.mark.slow
def test_a_retry_with_too_many_failures_is_not_gone_on_with(tmp_path: Path, facts: Facts) -> None:
    (tmp_path / "failing.py").write_text(
        "import time\n"
        "from durable_bus import Bus\n"
        "bus = Bus('failing')\n"
        "@bus.listener('work')\n"
        "def work(text: str) -> str:\n"
        "    time.sleep(0.05)\n"
        "    raise ValueError(text)\n"
    )
    items = write_items(tmp_path, *["x"] * 60)
    command = ("run", "failing:bus", "work", "--workers", 2, "--items", items, "--buffer-id", "b")
    assert durable_bus(*command, cwd=tmp_path).code == 1
    stopped = durable_bus(*command, "--retry-failed", "--max-failures", 2, cwd=tmp_path)
    assert (stopped.code, stopped.out) == (1, "")
    assert facts.value("SELECT completed < total FROM buffers WHERE buffer_id = 'b.retry1'") == 1
    runs = facts.value("SELECT count(*) FROM runs")
    again = durable_bus(*command, "--retry-failed", "--max-failures", 2, cwd=tmp_path)
    assert (again.code, again.out) == (1, "")
    assert "a higher limit goes on" in again.err
    assert facts.value("SELECT count(*) FROM runs") == runs


@pytest.mark.slow
def test_an_interrupted_retry_goes_on(tmp_path: Path, facts: Facts) -> None:
    names = [tmp_path / f"file-{index}" for index in range(20)]
    command = (*READ, "--items", write_items(tmp_path, *names), "--buffer-id", "b", "--retry-failed")
    os.mkfifo(names[10])
    for name in names[:10]:
        name.write_text("x")
    first = Command(*command, cwd=tmp_path)
    facts.until("SELECT completed = 10 FROM buffers WHERE buffer_id = 'b'")
    names[10].unlink()
    kill(first.supervisor())
    first.ended()
    for name in names[10:15]:
        name.write_text("y")
    ran = durable_bus(*command, "--format", "jsonl", cwd=tmp_path)
    assert ran.code == 1
    assert _payloads(ran.out) == ["x"] * 10 + ["y"] * 5 + [None] * 5
