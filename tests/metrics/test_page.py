"""A page of metrics says what the rows say: numbers are compared with what the views of the journal count."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import synthetic
from golden_journal import golden_journal, upgraded_golden_journal
from metrics_pages import Page, promtool_says, read
from paced_journal import Paced, served
from support import Facts, now_ms

from durable_bus.errors import NotFound
from durable_bus.journal.admin import metrics
from durable_bus.journal.admin.metrics import measure
from durable_bus.journal.connection import open_writer
from durable_bus.journal.schema import migrate
from durable_bus.metrics.page import page

DEAD = {"state": "dead", "pid": None, "reason": None}
DAY_MS = 24 * 3600 * 1000


def text_of(journal: Path, at_ms: int | None = None, supervisor: dict[str, Any] = DEAD) -> str:
    return page(measure(journal, now_ms() if at_ms is None else at_ms), supervisor)


def page_of(journal: Path, at_ms: int | None = None) -> Page:
    return read(text_of(journal, at_ms))


def of(found: Page, name: str) -> Page:
    """What is not zero of one metric."""
    return {labels[1:]: value for labels, value in found.items() if labels[0] == name and value}


def counted(facts: Facts, sql: str) -> Page:
    return {tuple(labels): value for *labels, value in facts.rows(sql) if value}


def golden(folder: Path) -> Path:
    return upgraded_golden_journal(folder / "journal.db")


def batches(folder: Path) -> Path:
    synthetic.make(folder / "journal.db", 1000, 50)
    return folder / "journal.db"


def singles(folder: Path) -> Path:
    synthetic.make(folder / "journal.db", 1000, 1)
    return folder / "journal.db"


def newest_golden(folder: Path) -> Path:
    """With limits, memos, streams and places."""
    return golden_journal(folder / "journal.db")


MAKERS = pytest.mark.parametrize("make", [golden, newest_golden, batches, singles])


@MAKERS
def test_items_and_buffers_are_what_the_views_count(make: Callable[[Path], Path], tmp_path: Path) -> None:
    facts = Facts(make(tmp_path))
    found = page_of(tmp_path / "journal.db")
    assert of(found, "durable_bus_buffers") == counted(
        facts, "SELECT state, count(*) FROM buffers GROUP BY state"
    )
    assert of(found, "durable_bus_items_total") == counted(
        facts,
        "SELECT target, 'succeeded', sum(successful) FROM buffers GROUP BY target"
        " UNION ALL SELECT target, 'failed', sum(failed) FROM buffers GROUP BY target"
        " UNION ALL SELECT target, 'missing', sum(total - completed) FROM buffers WHERE ended_how IS NOT NULL"
        " GROUP BY target",
    )
    assert of(found, "durable_bus_items") == counted(
        facts,
        "SELECT b.target, i.state, count(*) FROM buffers b JOIN items i USING (buffer_id)"
        " WHERE b.state = 'open' AND i.state IN ('waiting', 'in_flight', 'forwarded') GROUP BY 1, 2"
        " UNION ALL SELECT target, 'receiving', sum(total) FROM buffers WHERE state = 'receiving' GROUP BY 1",
    )


@MAKERS
def test_attempts_are_results_that_handlers_gave_and_failures(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    facts = Facts(make(tmp_path))
    of_handlers = (
        "FROM results r JOIN buffers b USING (buffer_id) WHERE r.worker_pid IS NOT NULL AND r.memo = 0"
    )
    no_failure = (
        "NOT EXISTS (SELECT 1 FROM failures f WHERE f.item_key = r.item_key AND f.attempt = r.attempt)"
    )
    expected = counted(
        facts,
        f"SELECT b.target, 'succeeded', count(*) {of_handlers} AND r.success = 1 GROUP BY 1"
        f" UNION ALL SELECT b.target, 'failed', count(*) {of_handlers} AND r.success = 0 AND {no_failure}"
        " GROUP BY 1"
        " UNION ALL SELECT b.target, f.kind, count(*) FROM failures f JOIN buffers b USING (buffer_id)"
        " GROUP BY 1, 2"
        " UNION ALL SELECT b.target, 'forwarded', count(*) FROM forwarded_item f"
        " JOIN buffer b ON b.buffer_seq = f.item_key >> 32 GROUP BY 1",
    )
    assert expected
    assert of(page_of(tmp_path / "journal.db"), "durable_bus_attempts_total") == expected


@MAKERS
def test_durations_are_those_of_the_view_results(make: Callable[[Path], Path], tmp_path: Path) -> None:
    facts = Facts(make(tmp_path))
    found = page_of(tmp_path / "journal.db")
    durations = [
        value for (value,) in facts.rows("SELECT duration_ms FROM results WHERE duration_ms IS NOT NULL")
    ]
    assert durations
    name = "durable_bus_item_duration_seconds"
    buckets = {labels[1]: value for labels, value in found.items() if labels[0] == f"{name}_bucket"}
    assert buckets == {
        bound: sum(duration <= float(bound) * 1000 for duration in durations) for bound in buckets
    }
    assert found[f"{name}_count",] == buckets["+Inf"] == len(durations)
    assert found[f"{name}_sum",] == pytest.approx(sum(durations) / 1000)


@MAKERS
def test_waits_are_the_times_until_items_were_handed_out(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    facts = Facts(make(tmp_path))
    found = page_of(tmp_path / "journal.db")
    ended = "FROM dispatches d JOIN buffers b USING (buffer_id) WHERE d.attempt = 1 AND d.ended <> 'returned'"
    assert found["durable_bus_item_wait_seconds_count",] == facts.value(f"SELECT sum(item_count) {ended}")
    waited = (
        "(julianday(d.sent_at) - julianday(max(coalesce(b.not_before, b.created_at), b.created_at))) * 86400"
    )
    waited_s = facts.value(f"SELECT sum(d.item_count * max(0, {waited})) {ended}")
    # Items arrive when their buffer opens, some time after it was created.
    assert (
        0
        <= found["durable_bus_item_wait_seconds_sum",]
        <= waited_s + 1e-3 * facts.value(f"SELECT sum(item_count) {ended}")
    )


@pytest.mark.parametrize("rows", [1, 7, 200])
def test_the_size_of_pages_changes_nothing(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, at_ms = batches(tmp_path), now_ms()
    whole = text_of(journal, at_ms)
    monkeypatch.setattr(metrics, "_PAGE_ROWS", rows)
    monkeypatch.setattr(metrics, "_PAGE_ROWS_MAX", rows)
    assert text_of(journal, at_ms) == whole


def test_a_value_on_a_bound_is_up_to_it() -> None:
    histogram = metrics.Histogram((10, 20))
    histogram.add(10, 2)
    histogram.add_all([21, 20, 11, 10, 0])
    assert (histogram.cumulative, histogram.sum) == ([4, 6, 7], 82)


# What waits, and limits


@pytest.fixture
def paced(journal: Path) -> Any:
    with served(journal) as paced:
        yield paced


def test_the_oldest_that_waits_is_the_oldest_buffer_of_which_something_waits(
    journal: Path, paced: Paced, facts: Facts
) -> None:
    name = "durable_bus_oldest_waiting_seconds"
    assert page_of(journal)[name, "work"] == 0
    held, waiting, later = paced.buffer("held"), paced.buffer("waiting"), paced.buffer("later")
    paced.hand_out(held, 10)
    paced.hand_out(waiting, 4)
    paced.execute("UPDATE journal_commit SET committed_at = 1000 * commit_id")
    opened_ms = {
        seq: facts.value("SELECT opened_commit * 1000 FROM buffer WHERE buffer_seq = ?", seq)
        for seq in (held, waiting, later)
    }
    at_ms = 100_000
    found = page_of(journal, at_ms)
    assert found[name, "work"] == (at_ms - opened_ms[waiting]) / 1000
    assert (
        found["durable_bus_items", "work", "in_flight"],
        found["durable_bus_items", "work", "waiting"],
    ) == (14, 16)
    paced.execute("UPDATE buffer SET not_before = 90000 WHERE buffer_seq = ?", waiting)
    assert page_of(journal, at_ms)[name, "work"] == (at_ms - opened_ms[later]) / 1000
    paced.execute("UPDATE buffer SET not_before = 200000 WHERE buffer_seq IN (?, ?)", waiting, later)
    assert page_of(journal, at_ms)[name, "work"] == 0


def test_rests_that_overlap_count_once_and_what_is_to_come_does_not(journal: Path, paced: Paced) -> None:
    paced.limit("openai")
    assert page_of(journal)["durable_bus_throttled_seconds_total", "openai"] == 0
    paced.execute(
        "INSERT INTO journal_commit (commit_id, run_id, committed_at, results, failures) VALUES"
        " (101, 1, 10000, 0, 0), (102, 1, 15000, 0, 0), (103, 1, 30000, 0, 0)"
    )
    paced.execute(
        "INSERT INTO limit_change (name, commit_id, cause, rests_until) VALUES"
        " ('openai', 101, 'rest', 20000), ('openai', 102, 'rest', 22000), ('openai', 103, 'rest', 50000),"
        " ('openai', 103, 'hand', 99000)"
    )
    for at_ms, rested_s in ((12_000, 2), (21_000, 11), (29_000, 12), (40_000, 22), (60_000, 32)):
        assert page_of(journal, at_ms)["durable_bus_throttled_seconds_total", "openai"] == rested_s


# Pruned


def test_a_prune_makes_counters_begin_at_midnight_but_not_those_of_items(tmp_path: Path) -> None:
    journal = batches(tmp_path)
    facts = Facts(journal)
    last_ms = facts.value("SELECT max(committed_at) FROM journal_commit")
    before = page_of(journal)
    connection = open_writer(journal)
    connection.execute("UPDATE buffer SET pruned_commit = ended_commit")
    connection.execute("DELETE FROM answer WHERE answer_id % 2")
    connection.close()
    same_day, next_day = page_of(journal, last_ms), page_of(journal, last_ms + DAY_MS)
    for after in (same_day, next_day):
        assert of(after, "durable_bus_items_total") == of(before, "durable_bus_items_total")
        assert of(after, "durable_bus_buffers") == {("pruned",): 1}
    assert 0 < same_day["durable_bus_item_duration_seconds_count",] < 1000
    assert of(next_day, "durable_bus_attempts_total") == {}
    assert next_day["durable_bus_item_duration_seconds_count",] == 0
    assert next_day["durable_bus_item_wait_seconds_count",] == 0


# Labels, and journals with nothing in them


def test_more_buffers_make_no_more_lines(tmp_path: Path) -> None:
    lines = []
    for buffers in (10, 200):
        journal = tmp_path / f"{buffers}.db"
        with served(journal) as paced:
            for number in range(buffers):
                seq = paced.buffer(f"buffer-{number}")
                if number % 2:
                    paced.end(seq, "cancelled")
        text = text_of(journal)
        assert "buffer-" not in text
        lines.append([line.rpartition(" ")[0] for line in text.splitlines()])
    assert lines[0] == lines[1]


def test_an_empty_journal_has_a_page(journal: Path) -> None:
    connection = open_writer(journal)
    migrate(connection)
    connection.close()
    found = page_of(journal)
    assert {value for labels, value in found.items() if labels[0] == "durable_bus_buffers"} == {0}
    assert found["durable_bus_item_duration_seconds_count",] == 0
    assert found["durable_bus_journal_bytes", "journal"] == journal.stat().st_size


def test_no_journal_has_none(journal: Path) -> None:
    with pytest.raises(NotFound):
        text_of(journal)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_journals_of_older_versions_are_read_as_they_are(version: int, tmp_path: Path) -> None:
    journal = golden_journal(tmp_path / "journal.db", version)
    found = page_of(journal)
    expected = counted(Facts(journal), "SELECT state, count(*) FROM buffers GROUP BY state")
    assert of(found, "durable_bus_buffers") == expected


# Other programs


def test_a_page_is_what_the_parser_of_prometheus_client_reads(tmp_path: Path) -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="there is no prometheus_client here")
    text = text_of(golden(tmp_path), supervisor=ALIVE)
    samples = [
        ((sample.name, *sample.labels.values()), sample.value)
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    ]
    assert dict(samples) == read(text)
    assert len(samples) == len(read(text))


def test_promtool_has_nothing_to_complain_of(tmp_path: Path) -> None:
    assert promtool_says(text_of(golden(tmp_path), supervisor=ALIVE)) == "0 "


# What the daemon says

ALIVE = {
    "state": "alive",
    "workers": [{"state": "ready"}, {"state": "ready"}, {"state": "booting"}],
    "figures": {
        "commit_bounds_us": [100, 1000],
        "commits": [3, 2, 1],
        "commits_us": 5500,
        "exits": {"left": 1, "killed": 2},
    },
}


def test_a_daemon_adds_workers_exits_and_commits(tmp_path: Path) -> None:
    found = read(text_of(golden(tmp_path), supervisor=ALIVE))
    assert of(found, "durable_bus_workers") == {("ready",): 2, ("booting",): 1}
    assert found["durable_bus_workers", "leaving"] == 0
    assert of(found, "durable_bus_worker_exits_total") == {("left",): 1, ("killed",): 2}
    name = "durable_bus_commit_duration_seconds"
    assert of(found, f"{name}_bucket") == {("0.0001",): 3, ("0.001",): 5, ("+Inf",): 6}
    assert (found[f"{name}_count",], found[f"{name}_sum",]) == (6, 0.0055)


@pytest.mark.parametrize(
    ("supervisor", "workers"),
    [
        (DEAD, {0.0}),
        ({"state": "hung", "pid": 1}, set()),
        ({"state": "alive", "pid": 1}, set()),
    ],
    ids=["dead", "hung", "no daemon"],
)
def test_without_a_daemon_that_answers_its_part_is_empty(
    supervisor: dict[str, Any], workers: set[float], tmp_path: Path
) -> None:
    found = read(text_of(golden(tmp_path), supervisor=supervisor))
    assert {value for labels, value in found.items() if labels[0] == "durable_bus_workers"} == workers
    assert not [labels for labels in found if "exits" in labels[0] or "commit" in labels[0]]
