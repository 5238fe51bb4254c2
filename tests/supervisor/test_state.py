"""All memory of the supervisor: what a refused commit has changed has not happened."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_bus.supervisor.entries import Worker
from durable_bus.supervisor.state import State

KEYS = st.integers(0, 3)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, st.integers()),
        st.tuples(st.just("discard"), KEYS, st.none()),
        st.tuples(st.just("field"), st.sampled_from(["generation", "grants", "import_error"]), st.integers()),
    ),
    max_size=30,
)


def apply(state: State, changes: Any) -> None:
    for how, key, value in changes:
        if how == "set":
            state.due_at[key] = value
        elif how == "discard":
            state.due_at.discard(key)
        else:
            setattr(state, key, value)


def seen(state: State) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, dict) else value for name, value in vars(state).items()}


@given(CHANGES, CHANGES)
def test_a_rollback_puts_back_every_table_and_field(before: Any, refused: Any) -> None:
    state = State()
    apply(state, before)
    state.commit()
    then = seen(state)
    apply(state, refused)
    state.rollback()
    assert seen(state) == then


@given(CHANGES)
def test_what_is_committed_stays(changes: Any) -> None:
    state, other = State(), State()
    apply(state, changes)
    apply(other, changes)
    then = seen(other)
    state.commit()
    state.rollback()
    del then["_before"], vars(other)["_before"]
    assert {name: value for name, value in seen(state).items() if name != "_before"} == then


def test_a_change_counts_at_once_and_a_second_rollback_changes_nothing() -> None:
    state = State()
    state.workers[1] = Worker(1, 100)
    state.commit()
    assert state.workers.change(1, unanswered=3) == state.workers[1] == Worker(1, 100, unanswered=3)
    assert state.workers.discard(1) == Worker(1, 100, unanswered=3)
    assert state.workers.discard(1) is None
    state.rollback()
    state.rollback()
    assert state.workers == {1: Worker(1, 100)}


@pytest.mark.parametrize("name", [name for name, value in vars(State()).items() if isinstance(value, dict)])
def test_every_table_notes_its_changes(name: str) -> None:
    state = State()
    table = getattr(state, name)
    if hasattr(table, "discard"):
        table["key"] = "value"
    else:
        setattr(state, name, {**table, "key": "value"})
    state.rollback()
    assert getattr(state, name) == {}
