"""What a function that is mapped gets and gives: equal values of the same types, whatever they are."""

import enum
import functools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from apps import exact_values, mapping
from apps.exact_values import VALUES, is_same
from support import Facts, environment, outcome, program

from durable_bus import map as durable_map
from durable_bus.errors import UsageError


class Round(NamedTuple):
    journal: Path
    values: dict[str, Any]
    again: dict[str, Any]


@pytest.fixture(scope="module")
def round_trip(tmp_path_factory: pytest.TempPathFactory) -> Round:
    """All values, through one worker and back; and read once more from the journal alone."""
    journal = tmp_path_factory.mktemp("values") / "journal.db"

    def mapped() -> dict[str, Any]:
        values = durable_map(mapping.same, VALUES.values(), journal=journal, workers=1)
        return dict(zip(VALUES, values, strict=True))

    return Round(journal, mapped(), mapped())


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_equal_and_of_the_same_type(round_trip: Round, name: str) -> None:
    assert is_same(round_trip.values[name], VALUES[name])


@pytest.mark.parametrize("name", VALUES)
def test_a_recorded_value_is_given_again(round_trip: Round, name: str) -> None:
    assert is_same(round_trip.again[name], VALUES[name])


def test_what_json_gives_back_is_json_in_sql_and_a_str_is_text(round_trip: Round) -> None:
    facts = Facts(round_trip.journal)
    for view in ("items", "results"):
        forms = dict(zip(VALUES, facts.rows(f"SELECT form FROM {view} ORDER BY item_index"), strict=True))
        assert {name for name, (form,) in forms.items() if form == "json"} == exact_values.AS_JSON
        assert forms["an element"] == ("text",)
        assert forms["tuple"] == ("pickle",)
        assert facts.rows(f"SELECT count(*) FROM {view} WHERE form = 'xml'") == [(0,)]


SCRIPT = """
import dataclasses, enum, sys
import durable_bus

@dataclasses.dataclass
class Point:
    x: int

class Colour(enum.IntEnum):
    RED = 1

def moved(value):
    if isinstance(value, type):
        return value(7)
    assert type(value) in (Point, Colour), type(value)
    return {value: 1} if isinstance(value, Colour) else Point(value.x + 1)

if __name__ == "__main__":
    items = [Point(1), Colour.RED, Point]
    for _ in range(2):
        values = list(durable_bus.map(moved, items, journal=sys.argv[1], workers=1))
        assert values == [Point(2), {Colour.RED: 1}, Point(7)], values
        assert [type(value) for value in values] == [Point, dict, Point]
        assert type(next(iter(values[1]))) is Colour
    print("good")
"""


@pytest.mark.slow
def test_classes_of_a_script_come_back_as_its_own(tmp_path: Path, journal: Path) -> None:
    assert outcome(program(tmp_path / "a script.py", SCRIPT, str(journal))) == (0, "good\n", "")


@pytest.mark.slow
def test_classes_of_a_module_that_is_run_with_m_come_back_as_its_own(tmp_path: Path, journal: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "beside.py").write_text("ONE = 1\n")
    source = SCRIPT.replace("import durable_bus\n", "import durable_bus\nfrom .beside import ONE\n")
    (tmp_path / "pack" / "inner.py").write_text(source)
    (tmp_path / "pack" / "__main__.py").write_text(source)
    for module in ("pack.inner", "pack"):
        done = subprocess.run(
            [sys.executable, "-m", module, str(journal)],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "good\n", "")


SETS = """
import sys
import durable_bus
from apps import mapping

items = [{"a", "b", "c", "d", "e"}, (frozenset("vwxyz"), "twice", "".join(["tw", "ice"])), 3]
for buffer_id in (None, "sets"):
    values = list(durable_bus.map(mapping.same, items, journal=sys.argv[1], workers=1, buffer_id=buffer_id))
    assert values == items, values
if len(sys.argv) > 2:
    items[1] = (frozenset("vwxy!"), "twice", "twice")
    try:
        list(durable_bus.map(mapping.same, items, journal=sys.argv[1], workers=1, buffer_id="sets"))
    except durable_bus.BufferError as error:
        print(error)
"""


@pytest.mark.slow
def test_sets_are_the_same_items_in_another_process(tmp_path: Path, journal: Path, facts: Facts) -> None:
    """Each process pickles a set of str in an order of its own."""
    for seed in ("1", "2", "3"):
        ran = program(tmp_path / "sets.py", SETS, str(journal), PYTHONHASHSEED=seed)
        assert outcome(ran) == (0, "", "")
    assert facts.value("SELECT count(*) FROM buffers") == 2
    ran = program(tmp_path / "sets.py", SETS, str(journal), "other", PYTHONHASHSEED="4")
    code, out, err = outcome(ran)
    assert (code, err) == (0, "")
    assert "with other items: item 1 was the pickle" in out


# Functions of every kind

FUNCTIONS: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "async": (mapping.same_later, [1, "<a/>", (1,)], [1, "<a/>", (1,)]),
    "of C": (math.sqrt, [4.0, 9], [2.0, 3.0]),
    "built-in": (len, ["abc", (1, 2)], [3, 2]),
    "method of a type": (str.upper, ["a", ""], ["A", ""]),
    "class of C": (int, ["1", 2.5], [1, 2]),
    "class": (mapping.Boxed, [1, None], [mapping.Boxed(1), mapping.Boxed(None)]),
    "static method": (mapping.Shapes.twice, ["a", 2, (1,)], ["aa", 4, (1, 1)]),
    "enum": (exact_values.Colour, ["red"], [exact_values.Colour.RED]),
    "lambda": (lambda value: [value], [1, "a"], [[1], ["a"]]),
    "partial": (functools.partial(mapping.same), [1], [1]),
    "inner function": ((lambda more: lambda value: value + more)(2), [1], [3]),
    "method of an object": (mapping.Shapes().method, [(1,)], [(1,)]),
    "class method": (mapping.Shapes.made, [1], [1]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_function_of_any_kind_is_called(journal: Path, kind: str) -> None:
    function, items, values = FUNCTIONS[kind]
    got = list(durable_map(function, items, journal=journal, workers=1))
    assert is_same(got, values)


REFUSED = {
    "no function": 3,
    "None": None,
    "enum member": enum.Enum("Here", "A").A,
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_function_is_refused_at_once(journal: Path, kind: str) -> None:
    with pytest.raises(UsageError, match="is not a function"):
        durable_map(REFUSED[kind], [1], journal=journal)  # type: ignore[arg-type]
    assert not journal.exists()


def test_an_annotation_of_the_function_changes_nothing(tmp_path: Path) -> None:
    """It is no handler: `square` says int, and a str comes as it is."""
    (failed,) = durable_map(
        mapping.square, ["7"], journal=tmp_path / "journal.db", workers=1, return_exceptions=True
    )
    assert "TypeError" in str(failed) or "ValueError" in str(failed)
