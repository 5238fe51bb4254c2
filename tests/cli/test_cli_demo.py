"""`durable-bus demo`: the audit of Python's standard library, killed and run again."""

import re
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from command_line import Command, durable_bus
from small_library import smaller
from support import Facts, environment, kill, workers_of


@pytest.mark.slow
def test_the_demo_survives_kill_9_of_everything_and_ends_with_what_it_found(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    facts = Facts(tmp_path / "code-audit.db")
    elsewhere = tmp_path_factory.mktemp("small")
    variables = smaller(elsewhere, 500)
    total = len([*(elsewhere / "library").rglob("*.py")])
    assert total > 400
    for index, victim in enumerate(["worker", "supervisor", "command"]):
        command = Command("demo", "--workers", 2, cwd=tmp_path, **variables)
        facts.until("SELECT completed > ? FROM buffers", 100 * (index + 1))
        supervisor = command.supervisor()
        kill({"worker": workers_of(supervisor)[0], "supervisor": supervisor, "command": command.pid}[victim])
        if victim == "worker":
            facts.until("SELECT completed > 150 FROM buffers")
            command.ctrl_c()
        command.ended()
        assert facts.value("SELECT completed < total FROM buffers"), "it must not have ended before the kill"

    ran = durable_bus("demo", "--workers", 2, cwd=tmp_path, **variables)
    assert ran.code == 0
    assert "items are recorded, going on" in ran.err
    (buffer,) = facts.dicts("SELECT * FROM buffers")
    assert (buffer["state"], buffer["total"], buffer["completed"]) == ("complete", total, total)
    facts.assert_whole(buffer["buffer_id"], total, failed=buffer["failed"])
    assert facts.value("SELECT count(*) FROM results WHERE NOT success") == buffer["failed"]
    assert f"{total:,} files, {buffer['successful']:,} audited, {buffer['failed']:,} failed" in ran.out
    if buffer["failed"]:
        assert re.search(r"\d+ failed: \w*Error", ran.out)

    runs = facts.value("SELECT count(*) FROM runs")
    again = durable_bus("demo", cwd=tmp_path, **variables)
    assert again.code == 0
    assert "nothing is run" in again.err
    assert facts.value("SELECT count(*) FROM runs") == runs
    assert again.out.splitlines()[:13] == ran.out.splitlines()[:13]
    _assert_table_is_right(ran.out, tmp_path)
    _assert_commands_work(ran.out, tmp_path, buffer["failed"])


def _assert_table_is_right(out: str, folder: Path) -> None:
    """Ten modules, the most complex first, as SQL finds them in the journal."""
    rows = [line.split() for line in out.splitlines()[3:13]]
    shown = [int(row[1].replace(",", "")) for row in rows]
    with closing(sqlite3.connect(f"file:{folder / 'code-audit.db'}?mode=ro", uri=True)) as connection:
        payloads = [row[0] for row in connection.execute("SELECT payload FROM results WHERE success")]
    complexities = [int(payload.split("<complexity>")[1].split("<")[0]) for payload in payloads]
    assert shown == sorted(complexities, reverse=True)[:10]
    assert all(len(line.rstrip()) <= 80 for line in out.splitlines()[:13])


def _assert_commands_work(out: str, folder: Path, failed: int) -> None:
    """What it tells to type can be typed. The first asks for what failed: not every Python comes with files
    that do.
    """
    commands = re.findall(r"^  (\S.*) \\\n    (\".*\")$", out, re.MULTILINE)
    assert len(commands) == 3
    for (program, query), rows_min in zip(commands, (failed, 1, 1), strict=True):
        words = shlex.split(f"{program} {query}")
        if words[0] == "sqlite-utils":
            words = [sys.executable, "-m", "sqlite_utils", *words[1:]]
        done = subprocess.run(
            words, cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") >= 2 + rows_min, done.stdout
