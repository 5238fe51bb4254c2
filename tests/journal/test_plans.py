"""How SQLite goes about what people ask of the views, without statistics: it finds rows by their keys.

A plan is a list of steps from the outermost loop to the innermost. `i`, `r`, `f` and `b` are what the views
call the tables item, result, failure and buffer. These claims hold in every SQLite, or a view has to change.
"""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from durable_bus.journal.connection import open_reader
from durable_bus.journal.statements import load

BY_ROWID = "USING INTEGER PRIMARY KEY (rowid=?)"
BUFFER = "SEARCH b USING INDEX buffer_id_is_used_once (buffer_id=?)"
RANGE = "USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"
ONE_ITEM = {
    "items": {f"SEARCH b {BY_ROWID}", f"SEARCH i {BY_ROWID}"},
    "results": {f"SEARCH b {BY_ROWID}", f"SEARCH r {BY_ROWID}"},
    "failures": {f"SEARCH b {BY_ROWID}", "SEARCH f USING INDEX failure_of_item (item_key=?)"},
}
NEVER_BEGUN = {"SCAN f USING INDEX failure_of_message"}
"""The failures of messages have neither buffer nor item: that part of the view is false before it begins."""


class Plans:
    def __init__(self, journal: Path) -> None:
        self._connection = open_reader(journal)

    def close(self) -> None:
        self._connection.close()

    def of(self, sql: str) -> list[str]:
        """The steps, without what is asked again for each row (subqueries of the columns)."""
        rows = self._connection.execute(f"EXPLAIN QUERY PLAN {sql}", ("x",) * sql.count("?")).fetchall()
        inside = {step for step, parent, _, detail in rows if detail.startswith("CORRELATED")}
        return [
            detail.removesuffix(" LEFT-JOIN").replace(" USING COVERING INDEX", " USING INDEX")
            for _, parent, _, detail in rows
            if parent not in inside and detail.split()[0] in ("SCAN", "SEARCH", "MATERIALIZE", "USE")
        ]


@pytest.fixture
def plans(empty: Path) -> Iterator[Plans]:
    with closing(Plans(empty)) as plans:
        yield plans


def scans(steps: list[str]) -> list[str]:
    return [step for step in steps if not step.startswith("SEARCH") and step not in NEVER_BEGUN]


@pytest.mark.parametrize("columns", ["i.payload, r.payload", "*", "count(*)", "i.state, r.error"])
@pytest.mark.parametrize(
    ("views", "outer"),
    [("items i JOIN results r", "i"), ("results r JOIN items i", "r"), ("items i, results r", "i")],
)
def test_items_beside_their_answers_read_one_table_and_find_the_rest_by_keys(
    plans: Plans, columns: str, views: str, outer: str
) -> None:
    on = "WHERE i.item_key = r.item_key" if "," in views else "USING (item_key)"
    first, *others = plans.of(f"SELECT {columns} FROM {views} {on}")
    assert first == f"SCAN {outer}"
    assert {step.partition(" ")[2].partition(" ")[2] for step in others} == {BY_ROWID}


@pytest.mark.parametrize("of", ["i", "r"])
def test_beside_one_another_in_one_buffer_they_are_read_by_its_range(plans: Plans, of: str) -> None:
    steps = plans.of(f"SELECT * FROM items i JOIN results r USING (item_key) WHERE {of}.buffer_id = ?")
    assert steps[:2] == [BUFFER, f"SEARCH {of} {RANGE}"]
    assert {step.partition(" ")[2].partition(" ")[2] for step in steps[2:]} == {BY_ROWID}


@pytest.mark.parametrize("view", ["items", "results"])
def test_failures_beside_what_failed_are_read_once(plans: Plans, view: str) -> None:
    """In either order: failures are the fewer, but no SQLite can know that."""
    for views in (f"{view} v JOIN failures f", f"failures f JOIN {view} v"):
        steps = plans.of(f"SELECT v.payload, f.message FROM {views} USING (item_key)")
        assert len(scans(steps)) == 1
        assert not [step for step in steps if "AUTOMATIC" in step]


@pytest.mark.parametrize("view", ONE_ITEM)
def test_one_item_by_its_key_takes_no_scan(plans: Plans, view: str) -> None:
    for sql in (f"SELECT * FROM {view} WHERE item_key = ?", f"SELECT * FROM {view} WHERE item_key IN (?, ?)"):
        steps = plans.of(sql)
        assert scans(steps) == []
        assert ONE_ITEM[view] <= set(steps)


def test_the_key_of_an_item_is_found_by_its_index(plans: Plans) -> None:
    """Nothing is sorted: the first row by key is the first that SQLite comes to."""
    steps = plans.of("SELECT item_key + ? FROM items WHERE buffer_id = ? ORDER BY item_key LIMIT 1")
    assert steps[:2] == [BUFFER, f"SEARCH i {RANGE}"]
    assert not [step for step in steps if step.startswith("USE TEMP")]


@pytest.mark.parametrize(
    ("view", "rows"),
    [
        ("items", f"SEARCH i {RANGE}"),
        ("results", f"SEARCH r {RANGE}"),
        ("failures", "SEARCH f USING INDEX failure_of_item (item_key>? AND item_key<?)"),
    ],
)
@pytest.mark.parametrize("asked", ["SELECT * FROM {}", "SELECT * FROM buffers JOIN {} USING (buffer_id)"])
def test_of_one_buffer_its_range_is_read(plans: Plans, view: str, rows: str, asked: str) -> None:
    steps = plans.of(f"{asked.format(view)} WHERE buffer_id = ?")
    assert scans(steps) == []
    assert steps.index(BUFFER) < steps.index(rows)


def test_a_field_of_all_answers_looks_at_answers_and_buffers_only(plans: Plans) -> None:
    """The views' other tables are not looked at for columns that nobody asks for: 0.12 us a row each. (Within
    an aggregate SQLite does not see that.)
    """
    asked = "SELECT json ->> '$.score' FROM results"
    assert plans.of(asked) == ["SCAN r", f"SEARCH b {BY_ROWID}"]
    assert plans.of(f"{asked} WHERE buffer_id = ?") == [BUFFER, f"SEARCH r {RANGE}"]


@pytest.mark.parametrize(
    "column", ["run_id", "worker_pid", "recorded_at", "attempt", "duration_ms", "form", "success", '"where"']
)
def test_answers_chosen_by_any_other_column_are_read_once(plans: Plans, column: str) -> None:
    """Not once for each commit of a run: there is an index of those, and none from there to the answers."""
    assert scans(plans.of(f"SELECT * FROM results WHERE {column} = ?")) == ["SCAN r"]
    assert scans(plans.of(f"SELECT * FROM results WHERE buffer_id = ? AND {column} = ?")) == []


PACKED = [
    ("buffers.sql", "items_packed"),
    ("buffers.sql", "item_forms"),
    ("reader.sql", "results_packed"),
    ("reader.sql", "items_packed"),
    ("reader.sql", "item_forms"),
]


@pytest.mark.parametrize(("file_name", "name"), PACKED)
def test_what_is_packed_is_read_along_the_primary_key(empty: Path, file_name: str, name: str) -> None:
    """Its order is what gives each payload its index and its form. Nothing in SQL says it: the plan does."""
    with closing(open_reader(empty)) as connection:
        sql = f"EXPLAIN QUERY PLAN {load(file_name)[name]}"
        steps = [detail for *_, detail in connection.execute(sql, {"first_key": 0, "end_key": 1})]
    table = "result" if name.startswith("result") else "item"
    assert steps == [f"SEARCH {table} {RANGE}"]


PACE = [
    ("runs.sql", "last_ids", {"SEARCH spent USING INDEX spent_once (dispatch_id>?)"}),
    ("buffers.sql", "clear_memos", {"SEARCH memo USING INDEX memo_of_item (item_key>? AND item_key<?)"}),
    ("buffers.sql", "clear_budget", {"SEARCH budget USING PRIMARY KEY (buffer_seq=?)"}),
    ("buffers.sql", "clear_messages_of_spent", {"SEARCH spent USING INDEX spent_of_message (message_seq=?)"}),
    (
        "messages.sql",
        "forget_messages_of_spent",
        {"SEARCH spent USING INDEX spent_of_message (message_seq=?)"},
    ),
    ("reader.sql", "spending_of_buffer", {"SEARCH s USING INDEX spent_of_buffer (buffer_seq=?)"}),
    (
        "reader.sql",
        "budget",
        {
            "SEARCH g USING PRIMARY KEY (buffer_seq=?)",
            "SEARCH n USING INDEX buffer_of_budget (budget_of=?)",
            "SEARCH s USING INDEX spent_of_buffer (buffer_seq=?)",
        },
    ),
    (
        "check_pace.sql",
        "given_again_is_what_was_answered",
        {
            "SCAN a USING INDEX answer_of_memo",
            f"SEARCH r {RANGE}",
            "SEARCH i USING INTEGER PRIMARY KEY (rowid=?)",
        },
    ),
    (
        "check_pace.sql",
        "budget_pauses_have_a_reason",
        {
            "SEARCH g USING PRIMARY KEY (buffer_seq=?)",
            "SEARCH n USING INDEX buffer_of_budget (budget_of=?)",
            "SEARCH s USING INDEX spent_of_buffer (buffer_seq=?)",
        },
    ),
    ("check_pace.sql", "nothing_starts_early", {"SEARCH d USING INDEX dispatch_of_buffer (buffer_seq=?)"}),
    (
        "check_pace.sql",
        "spending_is_of_what_was_handed_out",
        {f"SEARCH d {BY_ROWID}", f"SEARCH m {BY_ROWID}"},
    ),
    ("check_pace.sql", "memos_point_to_answers", {f"SEARCH r {BY_ROWID}"}),
    ("history.sql", "limits_at", {f"SEARCH last {BY_ROWID}"}),
]


@pytest.mark.parametrize(("file_name", "name", "steps"), PACE)
def test_what_was_limited_spent_or_given_again_is_found_by_its_index(
    empty: Path, file_name: str, name: str, steps: set[str]
) -> None:
    sql = load(file_name)[name]
    parameters = dict.fromkeys(re.findall(r"(?<!:):([a-z]\w*)", sql), 1)
    with closing(open_reader(empty)) as connection:
        plan = [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
    found = {
        step.removesuffix(" LEFT-JOIN").replace(" USING COVERING INDEX", " USING INDEX") for step in plan
    }
    assert steps <= found


def test_what_one_buffer_has_spent_is_found_by_its_index(plans: Plans) -> None:
    steps = plans.of("SELECT * FROM spending WHERE buffer_id = ?")
    assert steps[:2] == [BUFFER, "SEARCH s USING INDEX spent_of_buffer (buffer_seq=?)"]
    assert scans(steps) == []


def test_what_was_spent_by_unit_looks_at_nothing_else(plans: Plans) -> None:
    assert scans(plans.of("SELECT unit, sum(amount) FROM spending GROUP BY unit")) == [
        "SCAN s",
        "USE TEMP B-TREE FOR GROUP BY",
    ]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("dispatches_page", "SEARCH d USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ("answers_page", "SEARCH a USING INDEX answer_of_buffer (buffer_seq=? AND answer_id>?)"),
        ("attempts_failed_page", "SEARCH f USING INTEGER PRIMARY KEY (rowid>?)"),
        ("recorded", "SEARCH r USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    ],
)
def test_a_page_of_a_trace_begins_where_the_last_one_has_ended_and_nothing_is_sorted(
    plans: Plans, name: str, step: str
) -> None:
    first, *others = plans.of(re.sub(r"(?<!:):[a-z]\w*", "?", load("trace.sql")[name]))
    assert first == step
    assert {other.partition(" ")[2].partition(" ")[2] for other in others} <= {BY_ROWID}
