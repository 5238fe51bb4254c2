"""`check` passes a journal with limits, budgets, ends and memos, and finds what is made wrong in it."""

import shutil
from contextlib import closing
from pathlib import Path

import paced
import pytest
from paced import AGAIN, FAR_MS, FIRST, INNER, POOR, at_ms, key
from support import Facts
from test_check import execute, wrong

from durable_bus.journal.journal import Journal
from durable_bus.journal.statements import load

GIVEN = f"WHERE item_key = {key(AGAIN, 0)}"
RETURNS = """
    INSERT INTO failure (commit_id, item_key, attempt, kind, message, retry_at)
    WITH RECURSIVE n (i) AS (VALUES (2) UNION ALL SELECT i + 1 FROM n WHERE i <= {last})
    SELECT 4, {key}, i, 'retry_after', '', {retry_at} FROM n"""
"""Attempts 2 to `last` + 1 at an item."""
BREAKS = {
    "ends_fit_the_counters": [
        "UPDATE buffer SET enough = 2 WHERE buffer_id = 'again'",
        "UPDATE buffer SET enough = NULL WHERE buffer_id = 'again'",
        "UPDATE buffer SET max_failures = 2 WHERE buffer_id = 'failing'",
        "UPDATE buffer SET max_failures = NULL WHERE buffer_id = 'failing'",
        "UPDATE buffer SET deadline_at = deadline_at + 1 WHERE buffer_id = 'late'",
        "UPDATE buffer SET deadline_at = NULL WHERE buffer_id = 'late'",
        "UPDATE buffer SET ended_how = 'all' WHERE buffer_id = 'again'",
    ],
    "nothing_starts_early": [f"UPDATE buffer SET not_before = {at_ms(3) + 1} WHERE buffer_id = 'first'"],
    "nothing_comes_back_too_often": [
        RETURNS.format(last=1001, key=key(FIRST, 2), retry_at=0),
        RETURNS.format(last=1002, key=key(FIRST, 2), retry_at="NULL"),
    ],
    "memos_point_to_answers": [
        f"UPDATE memo SET item_key = {key(FIRST, 2)}",
        f"UPDATE memo SET item_key = {key(99, 0)}",
        f"INSERT INTO forwarded_item VALUES ({key(FIRST, 0)}, 4, 1, 1)",
    ],
    "given_again_is_what_was_answered": [
        f"UPDATE item SET payload = 'z' {GIVEN}",
        f"UPDATE item SET form = 2 {GIVEN}",
        f"UPDATE result SET payload = 'z' {GIVEN}",
        f"UPDATE result SET form = 2 {GIVEN}",
        f"UPDATE result SET success = 0 {GIVEN}",
        "UPDATE buffer SET target = 'free' WHERE buffer_id = 'again'",
        "UPDATE answer SET commit_id = 3 WHERE memo = 1",
        "UPDATE answer SET memo = 1 WHERE answer_id = 1",
    ],
    "one_outcome_each": ["UPDATE answer SET memo = 0 WHERE memo = 1", "UPDATE answer SET memo = 1"],
    "spending_is_of_what_was_handed_out": [
        "UPDATE spent SET dispatch_id = 99 WHERE dispatch_id = 1",
        "UPDATE spent SET attempt = 2 WHERE dispatch_id = 1",
        "UPDATE spent SET item_index = 3 WHERE dispatch_id = 1",
        "UPDATE spent SET item_index = 0 WHERE dispatch_id = 2",
        f"UPDATE spent SET buffer_seq = {POOR} WHERE dispatch_id = 1",
        "UPDATE spent SET buffer_seq = NULL WHERE dispatch_id = 1",
        "UPDATE spent SET message_seq = 1 WHERE dispatch_id = 1",
        "UPDATE spent SET commit_id = 3 WHERE dispatch_id = 1",
        "UPDATE spent SET commit_id = 26 WHERE dispatch_id = -1",
        "UPDATE spent SET item_index = 1 WHERE dispatch_id = -1",
        "UPDATE spent SET listener = 'free' WHERE dispatch_id = -1",
    ],
    "budgets_belong_to_a_buffer": [
        f"DELETE FROM budget WHERE buffer_seq = {POOR}",
        f"UPDATE buffer SET budget_of = {AGAIN} WHERE buffer_id = 'inner'",
        "UPDATE buffer SET budget_of = NULL WHERE buffer_id = 'poor'",
    ],
    "budget_pauses_have_a_reason": [
        f"UPDATE spent SET amount = 5.9 WHERE buffer_seq = {INNER}",
        f"UPDATE spent SET commit_id = 26 WHERE buffer_seq = {INNER}",
        f"UPDATE spent SET unit = 'chars' WHERE buffer_seq = {INNER}",
        f"UPDATE pause SET paused_commit = 5 WHERE buffer_seq = {FIRST}",
        f"UPDATE budget SET amount = 10.1 WHERE buffer_seq = {POOR}",
        "UPDATE buffer SET budget_of = NULL WHERE buffer_id = 'poor'",
        "UPDATE buffer SET budget_of = NULL WHERE buffer_id = 'inner'",
    ],
    "limits_are_as_last_changed": [
        "UPDATE limit_state SET rate = '500/min'",
        "UPDATE limit_state SET running = 41",
        "UPDATE limit_state SET running = NULL",
        "DELETE FROM limit_change",
    ],
    "limits_change_in_order": ["UPDATE limit_change SET commit_id = 1 WHERE change_id = 3"],
}
HARMLESS = {
    "what waits for its time may start then": (
        f"UPDATE buffer SET not_before = {at_ms(3)} WHERE buffer_id = 'first'"
    ),
    "a thousand returns and the last one": RETURNS.format(last=1000, key=key(FIRST, 1), retry_at="NULL"),
    "amounts are added up in another order": (
        f"UPDATE budget SET amount = 10.000000001 WHERE buffer_seq = {POOR}"
    ),
    "the source of a memo was pruned since": f"""
        UPDATE buffer SET pruned_commit = 31 WHERE buffer_seq = {FIRST}""",
    "an older version has ended it": "UPDATE buffer SET ended_how = NULL WHERE ended_commit IS NOT NULL",
    "the app has the limit no more": "UPDATE limit_state SET declared = 0, rate = '1/s'",
}
OF_OTHERS = {"attempts_are_numbered", "commits_count_their_rows", "items_are_complete"}
"""What these changes break besides."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paced.make(tmp_path_factory.mktemp("paced") / "journal.db")


@pytest.fixture
def journal(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "journal.db"))


def test_all_of_it_is_right(journal: Path) -> None:
    assert wrong(journal) == set()


def test_every_invariant_has_a_test_that_breaks_it() -> None:
    assert BREAKS.keys() == {*load("check_pace.sql"), "one_outcome_each"}


@pytest.mark.parametrize(("name", "sql"), [(name, sql) for name, breaks in BREAKS.items() for sql in breaks])
def test_what_is_broken_is_found(journal: Path, name: str, sql: str) -> None:
    execute(journal, sql)
    assert name in wrong(journal)


@pytest.mark.parametrize("what", HARMLESS)
def test_what_may_be_is_not_found(journal: Path, what: str) -> None:
    execute(journal, HARMLESS[what])
    assert wrong(journal) <= OF_OTHERS


def prune_all(journal: Path) -> None:
    """As a supervisor does, buffer by buffer and a row at a time, and right at each commit."""
    with closing(Journal.open(journal)) as opened:
        opened.run_id = 1
        with opened.commit(at_ms(paced.LAST_COMMIT)):
            assert opened.buffers.prune(FAR_MS)[0] == 6
        while opened.buffers.may_clear:
            with opened.commit(at_ms(paced.LAST_COMMIT)):
                opened.buffers.clear_some(rows_max=1)
            assert wrong(journal) == set()


def test_what_was_spent_outlives_a_prune_and_memos_and_budgets_do_not(journal: Path) -> None:
    facts = Facts(journal)
    spent = facts.rows("SELECT * FROM spending")
    assert facts.rows("SELECT buffer_seq FROM budget") == [(FIRST,), (FIRST,), (POOR,)]
    prune_all(journal)
    assert facts.rows("SELECT buffer_id FROM buffers WHERE state <> 'pruned' ORDER BY 1") == [
        ("patient",),
        ("poor",),
    ]
    assert facts.rows("SELECT * FROM spending") == spent
    assert facts.rows("SELECT count(*) FROM memo") == [(0,)]
    assert facts.rows("SELECT buffer_seq FROM budget") == [(POOR,)]


@pytest.mark.slow
def test_a_dispatch_never_gets_the_number_of_one_whose_spending_is_left(journal: Path) -> None:
    """What the new one spends would be taken for what the old one had."""
    facts = Facts(journal)
    last = facts.value("SELECT max(dispatch_id) FROM dispatch")
    prune_all(journal)
    assert facts.value("SELECT max(dispatch_id) FROM dispatch") < last
    with closing(Journal.open(journal)) as opened:
        assert opened.ids.dispatch == last


def test_what_was_spent_on_a_message_outlives_its_conversation(journal: Path) -> None:
    facts = Facts(journal)
    execute(
        journal,
        """
        INSERT INTO message (
            message_id, kind, from_id, to_id, thread_id, payload, form, created_commit, settled_commit
        ) VALUES ('newest', 'text', 'cli', 'ask', 't', 'x', 0, 31, 31)""",
    )
    sql = "SELECT amount, item_index, message_id FROM spending WHERE buffer_id IS NULL"
    assert facts.rows(sql) == [(0.125, None, "asked")] * 2
    with closing(Journal.open(journal)) as opened:
        opened.run_id = 1
        with opened.commit(FAR_MS):
            opened.messages.forget_ended(FAR_MS, 0)
    assert facts.rows("SELECT message_id FROM messages") == [("newest",)]
    assert facts.rows(sql) == [(0.125, None, None)] * 2
    assert wrong(journal) == set()


@pytest.mark.slow
def test_a_pruned_conversation_on_an_items_thread_leaves_what_it_cost(journal: Path) -> None:
    facts = Facts(journal)
    execute(journal, "UPDATE message SET thread_id = 't/first/0'")
    execute(journal, f"UPDATE spent SET buffer_seq = {FIRST} WHERE dispatch_id < 0")
    prune_all(journal)
    assert facts.value("SELECT count(*) FROM message") == 0
    rows = facts.rows("SELECT buffer_id, amount, message_id FROM spending WHERE item_index IS NULL")
    assert rows == [("first", 0.125, None)] * 2


def test_a_buffer_that_was_given_up_leaves_no_budget(journal: Path) -> None:
    """Its number may be given again."""
    execute(
        journal,
        """
        INSERT INTO buffer (
            buffer_seq, buffer_id, target, return_to, from_id, thread_id, starter_thread_id, collect,
            request_id, touched_at, created_commit, budget_of
        ) VALUES (9, 'given-up', 'ask', '', 'cli', 't/given-up', 't', 0, 'r', 1, 31, 9)""",
    )
    execute(journal, "INSERT INTO budget VALUES (9, 'usd', 31, 1.0)")
    assert wrong(journal) == set()
    with closing(Journal.open(journal)) as opened:
        opened.run_id = 1
        with opened.commit(FAR_MS):
            opened.buffers.drop(9)
        assert wrong(journal) == set()
        with opened.commit(FAR_MS):
            opened.buffers.clear_some(rows_max=100)
    facts = Facts(journal)
    assert facts.value("SELECT count(*) FROM buffer WHERE buffer_seq = 9") == 0
    assert facts.value("SELECT count(*) FROM budget WHERE buffer_seq = 9") == 0
    assert wrong(journal) == set()
