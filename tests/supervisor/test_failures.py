"""Whatever a handler does, each item ends as one result, and each failed attempt as one row of `failures`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apps import unruly
from services import Service
from support import Facts, RunLog, outcome, program, until_gone

from durable_bus import Result, Text, Xml
from durable_bus.client.client import Client


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    journal = tmp_path_factory.mktemp("failures") / "journal.db"
    with unruly.bus.running(journal=journal, workers=2) as client:
        yield client


def run(client: Client, target: str, items: list[Any]) -> tuple[list[Result], list[dict[str, Any]]]:
    """The results of a buffer in order, and its rows of `failures`."""
    buffer = client.start(target, items)
    buffer.wait(60)
    failures = Facts(client.journal).dicts(
        "SELECT * FROM failures WHERE buffer_id = ? ORDER BY item_index, attempt", buffer.buffer_id
    )
    return list(buffer.results()), failures


EXCEPTIONS = {
    "raise": "ValueError: no good at all",
    "raise something that cannot say what it is": "UnsayableError: (an exception that cannot say what it is)",
    "raise something that exits when asked what it is": (
        "DeadlyToAskError: (an exception that cannot say what it is)"
    ),
    "raise an error of a kind of its own": "OwnKindError: unheard of",
    "raise a chain": "RuntimeError: outer",
    "raise half a surrogate pair": r"ValueError: bad name \udcff",
    "raise because of half a surrogate pair": "OSError: it cannot be read",
    "SystemExit": "SystemExit: 3",
    "KeyboardInterrupt": "KeyboardInterrupt",
    "GeneratorExit": "GeneratorExit",
    "recurse for ever": "RecursionError: maximum recursion depth exceeded",
    "block every signal": "OSError: they are blocked",
    "fork a child that lives on": "OSError: it has forked",
    "print a lot": "OSError: that was a lot",
}


@pytest.mark.parametrize("what", EXCEPTIONS)
def test_an_exception_is_one_failed_item_and_its_neighbours_succeed(client: Client, what: str) -> None:
    results, failures = run(client, "misbehave", ["good", what, "good", "good"])
    assert [result.success for result in results] == [True, False, True, True]
    assert [result.payload for result in results if result.success] == ["good"] * 3
    assert results[1].error is not None
    assert results[1].error.startswith(f"exception: {EXCEPTIONS[what]}")
    assert results[1].is_xml
    assert results[1].payload.startswith("<SystemError><code>exception</code><message>")
    (row,) = failures
    assert (row["item_index"], row["attempt"], row["kind"]) == (1, 1, "exception")
    assert row["message"].startswith(EXCEPTIONS[what])
    assert row["message_id"] is None
    assert len((row["traceback"] or "").encode()) <= 4096


def test_a_handler_that_closes_the_standard_files_is_one_failed_item(journal: Path) -> None:
    with unruly.bus.running(journal=journal, workers=1) as client:
        results, failures = run(client, "misbehave", ["good", "close the standard files", "good"])
        assert [result.success for result in results] == [True, False, True]
        assert [row["message"] for row in failures] == ["OSError: they are closed"]
        results, _ = run(client, "misbehave", ["raise", "good"])
        assert [result.success for result in results] == [False, True]


@pytest.mark.slow
def test_a_handler_whose_prints_nobody_reads_is_late_and_stops_nobody_else(
    tmp_path: Path, journal: Path, facts: Facts
) -> None:
    """Workers print to the program's stderr, which is a full pipe here."""
    main = (
        "from apps import unruly\n"
        "with unruly.bus.running(journal='journal.db', workers=2) as client:\n"
        "    complete = client.start('noisy', ['good', 'print', 'good', 'good'], buffer_id='b').wait(60)\n"
        "    print(complete.total, complete.successful, flush=True)\n"
    )
    process = program(tmp_path / "main.py", main)
    assert process.stdout is not None
    assert process.stdout.readline() == "4 3\n"
    assert outcome(process)[0] == 0
    assert facts.failures("b") == [(1, 1, "timeout", "no answer within 0.5 s")]


def test_the_traceback_of_an_exception_is_kept_with_its_chain(client: Client) -> None:
    _, failures = run(client, "misbehave", ["raise a chain"])
    assert "KeyError: 'inner'" in failures[0]["traceback"]
    assert "RuntimeError: outer" in failures[0]["traceback"]
    assert "misbehave" in failures[0]["traceback"]


def test_a_traceback_is_stored_once_however_many_items_share_it(client: Client) -> None:
    _, failures = run(client, "misbehave", ["raise"] * 50)
    assert len(failures) == 50
    assert len({row["traceback"] for row in failures}) == 1
    bodies = Facts(client.journal).rows("SELECT body FROM traceback WHERE body = ?", failures[0]["traceback"])
    assert len(bodies) == 1


DEATHS = {
    "_exit": "worker exited with code 7",
    "segfault": "worker killed by SIGSEGV",
    "SIGTERM itself": "worker killed by SIGTERM",
}


@pytest.mark.parametrize("what", DEATHS)
def test_a_death_is_one_failed_item_after_three_attempts(client: Client, what: str) -> None:
    results, failures = run(client, "misbehave", ["good", what, "good"])
    assert [result.success for result in results] == [True, False, True]
    assert results[1].error == f"lost: {DEATHS[what]}"
    assert [(row["attempt"], row["kind"], row["message"]) for row in failures] == [
        (attempt, "lost", DEATHS[what]) for attempt in (1, 2, 3)
    ]


def failed_frame(**wrong: object) -> str:
    """An item comes back; with a field that cannot be."""
    right = {
        "dispatch": 1,
        "index": 0,
        "kind": "retry_after",
        "message": "",
        "traceback": "",
        "durations": "",
    }
    return json.dumps({"k": "answers", "failed": [{**right, "after_s": 1.0, **wrong}]})


NO_FRAMES = {
    "not JSON": ("{", "Input data was truncated"),
    "a name that no worker's frame has": ('{"k": "hello"}', "Invalid value 'hello' - at `$.k`"),
    "a field of another type": (
        '{"k": "answers", "segments": 3}',
        "Expected `array`, got `int` - at `$.segments`",
    ),
    "a field that is not there": ('{"k": "ready"}', "Object missing required field `listeners`"),
    "a field too many": ('{"k": "answers", "x": 1}', "Object contains unknown field `x`"),
    "brackets without end": ('{"k": ' + "[" * 100_000, ""),  # too deep for most Pythons, too short for 3.15
    "an outcome without a body": (
        '{"k": "answers", "outcomes": [{"dispatch": 1, "index": 0, "outcome": {"do": "none"}}]}',
        "0 bodies for 1 segments and outcomes",
    ),
    "a wait without end": (
        failed_frame(after_s=1e308),
        "Expected `float` <= 86400.0 - at `$.failed[0].after_s`",
    ),
    "a place before the first": (failed_frame(index=-1), "Expected `int` >= 0 - at `$.failed[0].index`"),
    "a kind of its own": (failed_frame(kind="own"), "Expected `str` matching regex"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("header", "reason"), NO_FRAMES.values(), ids=NO_FRAMES)
def test_a_worker_that_writes_what_is_no_frame_of_a_worker_is_ended_and_replaced(
    client: Client, header: str, reason: str
) -> None:
    results, failures = run(client, "speaks-for-its-worker", ["good", header, "good"])
    assert [result.success for result in results] == [True, False, True]
    assert [row["kind"] for row in failures] == ["lost"] * 3
    assert {row["message"].partition(": ")[0] for row in failures} == {
        "worker wrote what is no frame of a worker"
    }
    assert reason in failures[0]["message"]


def test_what_is_spent_on_a_message_that_is_not_there_ends_nobody(journal: Path, facts: Facts) -> None:
    """It ended the daemon. What comes behind it in the same frame is recorded."""
    spent = [{"dispatch": dispatch, "index": 0, "number": 0, "amounts": {"usd": 1}} for dispatch in (-99, 1)]
    with Service(journal, "apps.unruly:bus", workers=1) as service, service.client() as client:
        client.start("speaks-for-its-worker", [json.dumps({"k": "answers", "spent": spent})])
        facts.until("SELECT count(*) = 1 FROM spent WHERE dispatch_id = 1")
        assert facts.value("SELECT count(*) FROM spent") == 1
        service.kill()  # the handler sleeps


UNSENDABLE = """
import os, threading
from durable_bus.wire.work import WorkItems
from durable_bus.worker.replies import Replies
answers = Replies(os.pipe()[1])
answers.flush_in_time()
work = WorkItems(1, 1, "b", "t/b", "work", 0, 1, 0, "0")
segment = answers.segment(work, 0, True, 0)
segment.payloads.append(None)
segment.micros.append(1)
"""


@pytest.mark.parametrize(
    "sending",
    ["threading.Event().wait()", "try: answers.flush()\nexcept BaseException: pass"],
    ids=["by the flushing thread", "by who catches everything, as an event loop does"],
)
def test_a_worker_that_cannot_send_what_it_has_to_say_ends(tmp_path: Path, sending: str) -> None:
    """Deaf but alive it would keep its items for ever; dead it is replaced, and they go out again."""
    code, _, err = outcome(program(tmp_path / "worker.py", UNSENDABLE + sending))
    assert code == 1
    assert "TypeError" in err


UNSERIALISABLE = {
    "answer too much": ("8388609 bytes, more than 8388608", "'" + "x" * (64 * 1024 - 1)),
    "answer what has no form": ("at a: set is not JSON", "{'a': {1}}"),
    "answer NUL": ("a text with a NUL character, at position 1", r"'a\x00b'"),
    "answer half a surrogate pair": ("a lone surrogate at position 0", r"'\ud800'"),
    "answer broken XML": ("not one XML element: not XML:", "Xml(text='&lt;a&gt;')"),
    "answer a DOCTYPE": (
        "not one XML element: a DOCTYPE is refused",
        "Xml(text='&lt;!DOCTYPE a&gt;&lt;a/&gt;')",
    ),
    "answer two elements": ("not one XML element: not XML:", "Xml(text='&lt;a/&gt;&lt;b/&gt;')"),
}


@pytest.mark.parametrize("what", UNSERIALISABLE)
def test_an_answer_that_cannot_be_written_is_one_failed_item_which_keeps_its_repr(
    client: Client, what: str
) -> None:
    why, kept = UNSERIALISABLE[what]
    results, failures = run(client, "misbehave", ["good", what, "good"])
    assert [result.success for result in results] == [True, False, True]
    assert results[1].payload.startswith("<SystemError><code>answer</code><message>")
    (row,) = failures
    assert (row["item_index"], row["attempt"], row["kind"]) == (1, 1, "answer")
    assert row["message"].startswith(f"the answer cannot be written: {why}")
    assert f"; the answer was: {kept}</message>" in results[1].payload


@pytest.mark.slow
def test_a_handler_that_forks_and_returns_in_both_processes_answers_once(
    journal: Path, run_log: RunLog
) -> None:
    """The child is no worker: it runs nothing else, what it answers is heard by nobody, and it ends."""
    items = ["fork and return in both", *["good"] * 20] * 5
    with unruly.bus.running(journal=journal, workers=2) as client:
        results, failures = run(client, "misbehave", items)
        assert [result.payload for result in results] == items
        assert failures == []
        children = [run.index for run in run_log.runs() if run.index]
        assert len(children) == 5
        for child in children:
            until_gone(child)


MALFORMED = {
    "<a>": "not XML:",
    "<a/><b/>": "not XML:",
    "<a/>text": "not XML:",
    "<!-- before --><a/>": "not one element: a comment or processing instruction stands before it",
    "<!DOCTYPE a><a/>": "a DOCTYPE is refused",
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>': "a DOCTYPE is refused",
    "<a>&unknown;</a>": "not XML:",
    "": "not XML",
    "<a>\x01</a>": "not XML:",
    "<a>" * 300 + "</a>" * 300: "not XML:",
}


def test_a_malformed_item_fails_without_its_handler_and_the_others_run(client: Client) -> None:
    items = [Xml(text) for text in MALFORMED]
    results, failures = run(client, "third-time", [*items, Text("fine")])
    assert [result.success for result in results] == [False] * len(items) + [True]
    assert all(result.payload.startswith("<SystemError><code>malformed</code>") for result in results[:-1])
    assert [row["kind"] for row in failures if row["item_index"] < len(items)] == ["malformed"] * len(items)
    for row, message in zip(failures, MALFORMED.values(), strict=False):
        assert row["message"].startswith(message), row
    assert all(result.attempt == 1 for result in results[:-1]), "a malformed item is not tried again"


def test_attempts_are_made_until_one_succeeds_and_each_failed_one_has_its_row(client: Client) -> None:
    results, failures = run(client, "third-time", ["a", "b"])
    assert [(result.payload, result.attempt) for result in results] == [
        ("a at attempt 3", 3),
        ("b at attempt 3", 3),
    ]
    assert [(row["item_index"], row["attempt"], row["message"]) for row in failures] == [
        (index, attempt, f"ValueError: attempt {attempt}") for index in (0, 1) for attempt in (1, 2)
    ]


def test_the_next_attempt_is_not_made_before_its_time(client: Client) -> None:
    buffer = client.start("third-time", ["a"])
    buffer.wait(60)
    rows = Facts(client.journal).rows(
        "SELECT f.retry_at, f.retry_at - failed.committed_at, retried.committed_at FROM failure f"
        " JOIN journal_commit failed USING (commit_id)"
        " JOIN journal_commit retried ON retried.commit_id = f.retried_commit"
        " JOIN buffer b ON b.buffer_seq = f.item_key >> 32 WHERE b.buffer_id = ? ORDER BY f.failure_id",
        buffer.buffer_id,
    )
    assert [backoff_ms for _, backoff_ms, _ in rows] == [50, 100]
    assert all(retried_at >= retry_at for retry_at, _, retried_at in rows)


def test_an_item_whose_attempts_are_used_up_has_failed(client: Client) -> None:
    results, failures = run(client, "never", ["why"])
    assert (results[0].success, results[0].error, results[0].attempt) == (
        False,
        "exception: ValueError: why",
        3,
    )
    assert [row["attempt"] for row in failures] == [1, 2, 3]


def test_a_sync_handler_past_its_time_loses_its_worker_and_only_its_item_fails(client: Client) -> None:
    results, failures = run(client, "tardy", ["good"] * 5 + ["late"] + ["good"] * 5)
    assert [result.index for result in results if not result.success] == [5]
    assert results[5].error == "timeout: no answer within 0.5 s"
    assert results[5].payload == (
        "<SystemError><code>timeout</code><message>no answer within 0.5 s</message>"
        "<retry_allowed>false</retry_allowed></SystemError>"
    )
    assert [(row["item_index"], row["attempt"], row["kind"]) for row in failures] == [(5, 1, "timeout")]


def test_a_time_out_is_an_attempt_and_is_tried_again(client: Client) -> None:
    results, failures = run(client, "late-then-good", ["good", "late"])
    assert [(result.payload, result.attempt) for result in results] == [("good", 1), ("late", 2)]
    assert [(row["item_index"], row["attempt"], row["kind"]) for row in failures] == [(1, 1, "timeout")]


def test_huh_and_an_unserialisable_answer_are_answers_and_not_tried_again(client: Client) -> None:
    results, failures = run(client, "puzzled", ["what"])
    assert (results[0].success, results[0].attempt) == (False, 1)
    assert re.fullmatch(r"<Huh><error>what</error></Huh>", results[0].payload)
    assert failures == []
    results, failures = run(client, "broken-answer", ["what"])
    assert (results[0].success, results[0].attempt) == (False, 1)
    assert [(row["attempt"], row["kind"]) for row in failures] == [(1, "answer")]


def test_every_buffer_of_this_file_is_complete_and_nothing_is_left_in_flight(client: Client) -> None:
    facts = Facts(client.journal)
    assert facts.rows("SELECT buffer_id FROM buffers WHERE state <> 'complete'") == []
    assert facts.rows("SELECT * FROM in_flight") == []
    assert facts.value("SELECT count(*) FROM messages WHERE kind = 'BufferComplete'") == facts.value(
        "SELECT count(*) FROM buffers"
    )
