"""Twenty damages, done to the same bytes wherever this runs: `check` says the same of each on any SQLite."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from golden_journal import golden_journal

from durable_bus.journal.admin.check import check

Damage = Callable[[Path], object]
PAGE_BYTES = 8 * 1024
"""Of the golden journal."""


def overwrite(journal: Path, at: int, data: bytes) -> None:
    with open(journal, "r+b") as file:
        file.seek(at)
        file.write(data)


def place_of(journal: Path, name: str) -> int:
    """Where the first page of a table or index begins."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro&immutable=1", uri=True)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    return (int(page) - 1) * PAGE_BYTES


def page_lost(name: str, journal: Path) -> None:
    overwrite(journal, place_of(journal, name), b"\xa5" * PAGE_BYTES)


def page_zeroed(name: str, journal: Path) -> None:
    overwrite(journal, place_of(journal, name), b"\0" * PAGE_BYTES)


def pages_exchanged(one: str, other: str, journal: Path) -> None:
    data = journal.read_bytes()
    places = place_of(journal, one), place_of(journal, other)
    for here, there in (places, places[::-1]):
        overwrite(journal, here, data[there : there + PAGE_BYTES])


def rows_forgotten(name: str, journal: Path) -> None:
    """A leaf says that it has none."""
    overwrite(journal, place_of(journal, name) + 3, b"\0\0")


def cut(pages: int, journal: Path) -> None:
    os.truncate(journal, journal.stat().st_size - pages * PAGE_BYTES)


def index_of_another_column(journal: Path) -> None:
    with closing(sqlite3.connect(journal, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        changed = connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, '(to_id, message_seq)', '(thread_id, message_seq)')"
            " WHERE name = 'message_waiting'"
        )
        assert changed.rowcount == 1


DAMAGES: dict[str, tuple[Damage, str]] = {
    "run lost": (
        partial(page_lost, "run"),
        "check_constraints foreign_keys runs_begin_with_a_commit sqlite_integrity",
    ),
    "journal_commit lost": (
        partial(page_lost, "journal_commit"),
        "commits_count_their_rows commits_in_order ends_fit_the_counters foreign_keys "
        "runs_begin_with_a_commit sqlite_integrity",
    ),
    "buffer lost": (
        partial(page_lost, "buffer"),
        "budget_pauses_have_a_reason budgets_belong_to_a_buffer buffers_change_in_order "
        "check_constraints completions_are_of_their_commit completions_say_what_rows_say "
        "counters_equal_rows dispatches_are_of_their_buffer ended_means_whole "
        "ends_fit_the_counters failures_belong_to_an_item foreign_keys "
        "given_again_is_what_was_answered hops_resolve items_are_complete items_have_a_buffer "
        "low_water_is_low nothing_starts_early one_completion_each pauses_are_of_open_buffers "
        "retried_buffers_had_ended spending_is_of_what_was_handed_out sqlite_integrity "
        "streams_have_chunks threads_resolve",
    ),
    "item lost": (
        partial(page_lost, "item"),
        "check_constraints failures_belong_to_an_item foreign_keys "
        "given_again_is_what_was_answered items_are_complete items_have_a_buffer low_water_is_low "
        "results_belong_to_an_answer sqlite_integrity",
    ),
    "dispatch lost": (
        partial(page_lost, "dispatch"),
        "answers_belong_to_a_dispatch check_constraints dispatches_are_of_their_buffer "
        "foreign_keys forwarded_items_were_dispatched spending_is_of_what_was_handed_out "
        "sqlite_integrity what_ran_elsewhere_was_given_to_an_engine",
    ),
    "answer lost": (
        partial(page_lost, "answer"),
        "answers_belong_to_a_dispatch answers_count_their_results check_constraints "
        "commits_count_their_rows durations_are_whole foreign_keys "
        "given_again_is_what_was_answered one_outcome_each results_belong_to_an_answer "
        "sqlite_integrity what_ran_elsewhere_was_given_to_an_engine",
    ),
    "result lost": (
        partial(page_lost, "result"),
        "answers_count_their_results check_constraints counters_equal_rows ended_means_whole "
        "foreign_keys forwarded_items_wait_for_somebody given_again_is_what_was_answered "
        "memos_point_to_answers one_outcome_each results_belong_to_an_answer sqlite_integrity",
    ),
    "message lost": (
        partial(page_lost, "message"),
        "check_constraints completions_are_of_their_commit completions_say_what_rows_say "
        "foreign_keys messages_change_in_order sqlite_integrity threads_resolve",
    ),
    "thread lost": (
        partial(page_lost, "thread"),
        "check_constraints foreign_keys hops_resolve sqlite_integrity threads_resolve",
    ),
    "buffer_not_ended lost": (
        partial(page_lost, "buffer_not_ended"),
        "low_water_is_low sqlite_integrity",
    ),
    "message_waiting lost": (
        partial(page_lost, "message_waiting"),
        "sqlite_integrity",
    ),
    "dispatch_not_ended lost": (
        partial(page_lost, "dispatch_not_ended"),
        "in_flight_is_of_the_newest_run in_flight_only_once sqlite_integrity",
    ),
    "failure zeroed": (
        partial(page_zeroed, "failure"),
        "attempts_are_numbered check_constraints commits_count_their_rows "
        "failures_belong_to_an_item foreign_keys nothing_comes_back_too_often nothing_is_lost_too_often "
        "retries_come_after_their_failure sqlite_integrity",
    ),
    "message_of_thread zeroed": (
        partial(page_zeroed, "message_of_thread"),
        "sqlite_integrity",
    ),
    "item and result exchanged": (
        partial(pages_exchanged, "item", "result"),
        "answers_count_their_results check_constraints counters_equal_rows ended_means_whole "
        "foreign_keys items_are_complete memos_point_to_answers results_belong_to_an_answer "
        "sqlite_integrity",
    ),
    "results forgotten": (
        partial(rows_forgotten, "result"),
        "answers_count_their_results counters_equal_rows ended_means_whole memos_point_to_answers "
        "sqlite_integrity",
    ),
    "index forgotten": (
        partial(rows_forgotten, "message_waiting"),
        "sqlite_integrity",
    ),
    "last page cut off": (
        partial(cut, 1),
        "can_be_opened file_is_whole",
    ),
    "half cut off": (
        partial(cut, 20),
        "can_be_opened file_is_whole",
    ),
    "index of another column": (
        index_of_another_column,
        "schema_is_as_migrated sqlite_integrity",
    ),
}
"""What is done, and which checks then say that something is wrong."""
MAY_BE_FOUND = {
    "run lost": {"in_flight_is_of_the_newest_run"},
    "journal_commit lost": {"nothing_starts_early"},
}
"""Nothing is in flight, and nothing starts early: whether SQLite looks at the runs, or at commits, for all
that is its own choice.
"""


def wrong(journal: Path) -> set[str]:
    return {finding.name for finding in check(journal).checks if not finding.ok}


def test_there_are_twenty_and_nothing_is_wrong_before(tmp_path: Path) -> None:
    assert len(DAMAGES) == 20
    assert wrong(golden_journal(tmp_path / "journal.db")) == set()


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_found_by_just_these_checks(tmp_path: Path, name: str) -> None:
    damage, checks = DAMAGES[name]
    journal = golden_journal(tmp_path / "journal.db")
    damage(journal)
    assert wrong(journal) - MAY_BE_FOUND.get(name, set()) == set(checks.split())
