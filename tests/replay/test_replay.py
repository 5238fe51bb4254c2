"""Replay says what happened and how it was then, and prints a completion again."""

import json
import re
import signal
import subprocess
import sys
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from command_line import durable_bus
from daemons import client_of
from eventful import CRASHES, Story, supervised, texts
from msgspec import to_builtins
from replays import as_json
from services import Raw
from streams import Producer, greeted
from support import REPOSITORY, TESTS, Facts, environment, kill, now_ms, until

from durable_bus.app.finding import parse_spec
from durable_bus.client.client import Client
from durable_bus.journal.admin.backup import back_up
from durable_bus.journal.admin.history import History

# show


def test_show_names_what_each_crash_interrupted(story: Story, tmp_path: Path) -> None:
    shown = as_json("show", "--journal", story.journal, cwd=tmp_path)
    runs = shown["runs"]
    assert shown["served_by"] is None
    assert [run["ended"] for run in runs] == ["crashed"] * CRASHES + ["clean"]
    assert [run["pid"] for run in runs] == story.supervisors
    interrupted = [
        {
            (one["buffer_id"], index)
            for one in run["interrupted"]
            for index in range(one["first_index"], one["first_index"] + one["item_count"])
        }
        for run in runs
    ]
    assert interrupted == [*story.crashed, set()]
    assert sum(run["results"] for run in runs) == Facts(story.journal).value("SELECT count(*) FROM results")
    assert (runs[-1]["cancelled"], runs[0]["workers_died"] > 0) == (1, True)
    for run, next_run in pairwise(runs):
        assert run["last_commit"] + 1 == next_run["first_commit"]


def test_show_is_text_for_people(story: Story, tmp_path: Path) -> None:
    ran = durable_bus("replay", "show", "--journal", story.journal, cwd=tmp_path)
    assert ran.code == 0
    assert ran.out.count("crashed") == CRASHES
    assert re.search(r"interrupted items 0 to \d+ of held", ran.out)  # how many, timing decides
    assert "\x1b" not in ran.out  # no terminal, no colours


@pytest.mark.parametrize("name", ["[old]", "[", "x[", "[bold]\x1b[31m"])
def test_show_takes_the_journals_name_as_it_is(story: Story, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    back_up(story.journal, folder / "j.db")
    if name == "x[":
        (folder / "y].db").mkdir()  # so that the path has a closing tag
        (folder / "j.db").rename(folder / "y].db" / "j.db")
        name = "x[/y].db"
    ran = durable_bus("replay", "show", "--journal", f"{name}/j.db", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"{name}/j.db: nobody serves it\n".replace("\x1b", "\\u001b"))


@pytest.mark.slow
def test_a_run_that_lives_is_running_and_what_it_has_is_not_interrupted(journal: Path, facts: Facts) -> None:
    gate = journal.parent / "gate"
    with supervised(journal) as client:
        client.start("work", texts(f"gate {gate}"), buffer_id="held")
        facts.until("SELECT count(*) FROM in_flight")
        shown = as_json("show", "--journal", journal, cwd=journal.parent)
        (run,) = shown["runs"]
        assert (run["ended"], run["interrupted"]) == ("running", [])
        assert shown["served_by"] == client.supervisor_pid
        gate.touch()


# at


PARTLY_RETURNED = """
SELECT count(*) FROM dispatch d
WHERE d.ended_how = 'returned'
    AND EXISTS (SELECT 1 FROM dispatch e WHERE e.dispatch_id < d.dispatch_id AND e.commit_id > d.commit_id)
"""
"""What is taken back is a row of its own, as old as the one it was taken from."""


class RecordingDaemon:
    """See recording_daemon.py."""

    def __init__(self, journal: Path, record: Path, app: str = "eventful") -> None:
        options = {
            "journal": str(journal),
            "app": to_builtins(parse_spec(f"apps.{app}:bus")),
            "app_name": app,
            "workers": 2,
            "verbose": False,
            "grace_s": 0.5,
            "record": str(record),
        }
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "recording_daemon.py"), json.dumps(options)],
            env=environment(),
            stdin=subprocess.DEVNULL,
        )

    def __enter__(self) -> "RecordingDaemon":
        return self

    def __exit__(self, *_: object) -> None:
        kill(self.process.pid)
        self.process.wait()


def part_is_taken_back(client: Client, facts: Facts, buffer_id: str) -> bool:
    """Of the batch in which an item waits, nearly always; unless that is its last."""
    opened = client.journal.with_name(f"{buffer_id}-opened")
    lines = ["fine"] * 2_000 + [f"gate {opened}"] + ["fine"] * 6_000
    client.start("work", texts(*lines), buffer_id=buffer_id)
    facts.until_recorded(buffer_id, 8_000)  # what the waiting worker holds goes to the other one
    opened.touch()
    client.buffer(buffer_id).wait(60)
    return bool(facts.value(PARTLY_RETURNED) > 0)


@pytest.mark.slow
def test_at_every_commit_it_says_what_was_recorded_then(journal: Path, facts: Facts) -> None:
    """Three crashes, a cancel, a pause, retries, nested buffers, and dispatches of which a part is taken
    back; the daemon writes down each commit.
    """
    record, gate = journal.parent / "record", journal.parent / "gate"
    names = (f"shared{number}" for number in count())
    with RecordingDaemon(journal, record), client_of(journal, "cli") as client:
        until(lambda: part_is_taken_back(client, facts, next(names)), "a part of a dispatch is taken back")
        client.start("work", texts("fine", "flaky", "bad"), buffer_id="done").wait(60)
        client.start("planner", texts("a", "b"), buffer_id="outer")
        client.start("work", texts(*["fine", f"gate {gate}"] * 10), buffer_id="held")
        facts.until("SELECT count(*) > 0 FROM in_flight WHERE buffer_id = 'held'")
    with RecordingDaemon(journal, record), client_of(journal, "cli") as client:
        client.start("work", texts(*[f"gate {gate}"] * 9), buffer_id="stopped")
        client.pause("held")
        facts.until("SELECT count(*) > 0 FROM in_flight WHERE run_id = 2")
    with RecordingDaemon(journal, record), client_of(journal, "cli") as client:
        client.cancel("stopped")
        client.resume("held")
        facts.until("SELECT count(*) > 0 FROM in_flight WHERE run_id = 3")
    with RecordingDaemon(journal, record) as daemon, client_of(journal, "cli") as client:
        gate.touch()
        client.buffer("held").wait(60)
        client.buffer("outer").wait(60)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(60) == 0
    recorded = [json.loads(line) for line in record.read_text().splitlines()]
    # A kill may come between a commit and its line.
    assert len(recorded) >= facts.value("SELECT count(*) FROM journal_commit") - 3
    with History(journal) as history:
        for then in recorded:
            said = history.at(then["commit"])["buffers"]
            assert comparable(said) == comparable(then["buffers"]), then["commit"]


@pytest.mark.slow
def test_at_every_commit_a_stream_has_what_had_come_until_then(
    journal: Path, facts: Facts, tmp_path: Path
) -> None:
    """One that is sealed, one that a crash finds open, one that is cancelled; and what a prune leaves."""
    record = tmp_path / "record"
    ids = ("sealed", "open", "stopped")
    with RecordingDaemon(journal, record), client_of(journal, "cli"), Raw(journal) as raw:
        greeted(raw)
        producers = [Producer(raw, name, request=name, target="work") for name in ids]
        for count in (0, 3, 1, 2):
            for producer in producers:
                producer.put(*["fine"] * count) if count else producer.start()
        facts.until("SELECT count(*) = 18 FROM results")
        producers[0].seal()  # so that it ends with that, and was open until then
    with RecordingDaemon(journal, record) as daemon, client_of(journal, "cli") as client:
        client.cancel("stopped")
        with Raw(journal) as raw:
            producer = Producer(greeted(raw), "open", request="open", target="work")
            assert producer.start(again=True)["received"] == 6
            producer.put("fine")
            facts.until_recorded("open", 7)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(60) == 0
    recorded = [json.loads(line) for line in record.read_text().splitlines()]
    with History(journal) as history:
        for then in recorded:
            said = history.at(then["commit"])["buffers"]
            assert comparable(said) == comparable(then["buffers"]), then["commit"]
    newest = facts.value("SELECT max(commit_id) FROM journal_commit")
    last_open = facts.value("SELECT min(ended_commit) - 1 FROM buffer")
    with supervised(journal) as client:
        assert client.prune(now_ms() + 1000) == 2
        facts.until("SELECT count(*) = 7 FROM item")
    with History(journal) as history:
        for commit_id, totals in ((newest, [6, 7, 6]), (last_open, [None, 6, None])):
            rows = {row["buffer_id"]: row["total"] for row in history.at(commit_id)["buffers"]}
            assert [rows[name] for name in ids] == totals


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By id; how many items had arrived of a buffer that was being received is known of the present only."""
    columns = (
        "buffer_id", "state", "paused", "target", "completed", "successful", "failed", "pending", "in_flight",
        "ended_how", "paused_why",
    )  # fmt: skip
    return sorted(
        (
            {name: row[name] for name in columns}
            | ({"total": row["total"]} if row["state"] != "receiving" else {})
            for row in rows
        ),
        key=lambda row: row["buffer_id"],
    )


def test_at_takes_a_commit_or_a_time(story: Story, tmp_path: Path) -> None:
    (begun, last) = Facts(story.journal).rows("SELECT min(started_at), max(last_commit_at) FROM runs")[0]
    newest = Facts(story.journal).value("SELECT max(commit_id) FROM journal_commit")
    by_time = as_json("at", last, "--journal", story.journal, cwd=tmp_path)
    by_number = as_json("at", newest, "--journal", story.journal, cwd=tmp_path)
    assert by_time == by_number
    assert by_number["newest_commit"] == newest
    states = {row["buffer_id"]: row["state"] for row in by_number["buffers"]}
    assert (states["plain"], states["stopped"], states["halted"]) == ("complete", "cancelled", "open")
    early = as_json("at", 2, "--journal", story.journal, cwd=tmp_path)
    assert len(early["buffers"]) < len(by_number["buffers"])
    for moment, code in (("2001-01-01", 3), (newest + 1, 3), ("yesterday", 2)):
        ran = durable_bus("replay", "at", moment, "--journal", story.journal, cwd=tmp_path)
        assert ran.code == code
        assert str(moment) in ran.error
    assert begun < last


def test_at_the_beginning_nothing_had_happened(story: Story, tmp_path: Path) -> None:
    newest = Facts(story.journal).value("SELECT max(commit_id) FROM journal_commit")
    ran = durable_bus("replay", "at", 0, "--journal", story.journal, cwd=tmp_path)
    assert (ran.code, ran.out) == (0, f"after commit 0 of {newest}, nothing had happened yet\n")
    then = as_json("at", 0, "--journal", story.journal, cwd=tmp_path)
    assert (then["newest_commit"], then["run_id"], then["buffers"]) == (newest, None, [])


# emit


def test_emit_prints_the_completion_with_the_same_id(story: Story, tmp_path: Path) -> None:
    for buffer_id in ("plain", "failing", "stopped"):
        ran = durable_bus("replay", "emit", buffer_id, "--journal", story.journal, cwd=tmp_path)
        assert (ran.code, ran.err) == (0, f"message {buffer_id}/complete\n")
        complete = ElementTree.fromstring(ran.out)
        row = Facts(story.journal).dicts("SELECT * FROM buffers WHERE buffer_id = ?", buffer_id)[0]
        assert complete.tag == "BufferComplete"
        assert complete.findtext("total") == str(row["total"])
        assert complete.findtext("successful") == str(row["successful"])
        results = durable_bus("results", buffer_id, "--journal", story.journal, cwd=tmp_path)
        assert complete.findtext("results") == results.out.rstrip("\n")
        shown = as_json("emit", buffer_id, "--journal", story.journal, cwd=tmp_path)
        assert shown["message_id"] == f"{buffer_id}/complete"
        assert shown["results"] == complete.findtext("results")


@pytest.mark.parametrize(("buffer_id", "code"), [("halted", 2), ("untold", 2), ("nobody", 3)])
def test_what_has_no_completion_is_refused(story: Story, tmp_path: Path, buffer_id: str, code: int) -> None:
    ran = durable_bus("replay", "emit", buffer_id, "--journal", story.journal, cwd=tmp_path)
    assert (ran.code, ran.out) == (code, "")
    assert buffer_id in ran.error


# rerun


# The tool


def test_the_tool_is_the_same_without_an_installed_package(story: Story, tmp_path: Path) -> None:
    variables = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, REPOSITORY / "tools" / "replay.py", "show", "--journal", story.journal, "--json"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == as_json("show", "--journal", story.journal, cwd=tmp_path)
