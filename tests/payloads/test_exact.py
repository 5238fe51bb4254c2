"""Any value as text, JSON or a pickle, of which it comes back equal and of the same type."""

import math
import pickle
from typing import Any

import pytest
from apps.exact_values import AS_JSON, CYCLE, VALUES, is_same
from hypothesis import given
from hypothesis import strategies as st

from durable_bus.errors import LimitExceeded, UnserialisableAnswer
from durable_bus.payloads.exact import exact_answer, exact_texts
from durable_bus.payloads.forms import JSON, PICKLE, TEXT
from durable_bus.payloads.packing import pack, split
from durable_bus.payloads.reading import PayloadType, plain_value
from durable_bus.payloads.settings import ValueForms
from durable_bus.payloads.values import Payload, ValueWriter, quick_answer

WRITER = ValueWriter(lambda: ValueForms("xml", pickle=True))
LOADS = PayloadType(Any, pickles=True).loads
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(st.characters(categories=["Cs", "Cc", "Lu"]))
    | st.sampled_from(["<a/>", "<", "&", "null", "1", '"']),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.integers() | st.text(), inner)
    ),
    max_leaves=10,
)


class Exiting:
    def __reduce__(self) -> str:
        raise SystemExit(3)


def as_items(*values: Any) -> list[Payload]:
    texts, forms = exact_texts(WRITER, list(values))
    return list(zip(texts, forms, strict=True))


def as_answer(value: Any) -> Payload:
    """As a worker writes what a handler has returned: the quick way, else the slow one; both the same."""
    answer = exact_answer(value)
    written = WRITER.outcome(answer)
    assert written[2], "it is a success"
    quick = quick_answer(answer)
    assert quick in (None, (written[0].encode(), written[1]))
    return written[:2]


def journaled(text: str) -> bytes:
    """What a journal keeps of a text: none has NUL, nor half a surrogate pair."""
    (data,) = split(pack([text]))
    return data


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_the_same_after_a_journal(name: str) -> None:
    value = VALUES[name]
    for text, form in (*as_items(value), *as_items(value, None, "x", 1)[:1], as_answer(value)):
        assert is_same(LOADS[form](journaled(text)), value)
        assert is_same(plain_value(text, form), value)


@pytest.mark.parametrize("name", VALUES)
def test_a_value_has_the_form_that_gives_it_back(name: str) -> None:
    value = VALUES[name]
    if name in AS_JSON:
        wanted = JSON
    elif type(value) is str and "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value):
        wanted = TEXT
    else:
        wanted = PICKLE
    assert [form for _, form in as_items(value)] == [wanted]
    assert as_answer(value)[1] == wanted


@given(ANYTHING)
def test_whatever_it_is_made_of_it_comes_back(value: Any) -> None:
    for text, form in (*as_items(value), as_answer(value)):
        assert is_same(LOADS[form](journaled(text)), value)


@given(st.lists(ANYTHING, max_size=8))
def test_many_are_written_as_each_by_itself(values: list[Any]) -> None:
    alone = [payload for value in values for payload in as_items(value)]
    assert as_items(*values) == alone


def test_a_list_that_holds_itself_comes_back() -> None:
    for text, form in (*as_items(CYCLE), as_answer(CYCLE)):
        back = LOADS[form](journaled(text))
        assert back[0] == 1
        assert back[1] is back


@pytest.mark.parametrize(
    "value", [lambda: 1, [(lambda: 1,)], (i for i in ())], ids=["lambda", "inside", "generator"]
)
def test_what_cannot_be_pickled_raises_what_pickling_it_raises(value: Any) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        as_items(value)


def test_an_answer_that_cannot_be_pickled_is_an_answer_that_cannot_be_written() -> None:
    with pytest.raises(UnserialisableAnswer, match=r"cannot be written: list: .*pickle") as refused:
        exact_answer([lambda: 1])
    assert refused.value.answer.startswith("[<function ")


def test_an_answer_whose_pickling_exits_is_an_answer_that_cannot_be_written() -> None:
    with pytest.raises(UnserialisableAnswer, match="Exiting: SystemExit: 3"):
        exact_answer(Exiting())


@pytest.mark.parametrize(
    "value",
    ["x" * (8 * 1024 * 1024 + 1), "é" * (4 * 1024 * 1024 + 1), b"x" * 7_000_000],
    ids=["ascii", "é", "pickle"],
)
def test_an_item_of_more_than_8_mib_is_refused(value: Any) -> None:
    with pytest.raises(LimitExceeded, match="bytes, more than 8388608"):
        as_items(value)
    with pytest.raises(LimitExceeded):
        as_items("a", value)


def test_one_of_exactly_8_mib_is_taken() -> None:
    ((text, form),) = as_items("x" * (8 * 1024 * 1024))
    assert (len(text), form) == (8 * 1024 * 1024, TEXT)


def test_nan_is_never_json() -> None:
    for value in (math.nan, [1, [math.inf]], {"a": -math.inf}):
        ((_, form),) = as_items(value)
        assert form == PICKLE
