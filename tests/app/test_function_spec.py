"""Finding a function again in another process, and the bus that is made of it."""

import datetime
import functools
import json
import math
import operator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from apps import mapping
from support import python

from durable_bus.app.finding import function_spec, load_app, parse_function_spec
from durable_bus.errors import BusNotImportable, UsageError
from durable_bus.payloads.settings import AppSpec, MappedSettings

SETTINGS = MappedSettings("f", 7.0, 3)


def found(function: Any) -> tuple[str, str, str]:
    spec = function_spec(function, SETTINGS)
    assert spec.mapped == SETTINGS
    return spec.kind, spec.value, spec.attribute


@functools.lru_cache
def cached(value: int) -> int:
    return value


class Outer:
    class Inner:
        @staticmethod
        def work(value: Any) -> Any:
            return value


@pytest.mark.parametrize(
    ("function", "where", "path"),
    [
        (mapping.square, "apps.mapping", "square"),
        (mapping.same_later, "apps.mapping", "same_later"),
        (mapping.Shapes.twice, "apps.mapping", "Shapes.twice"),
        (mapping.Shapes, "apps.mapping", "Shapes"),
        (Outer.Inner.work, __name__, "Outer.Inner.work"),
        (cached, __name__, "cached"),
        (math.sqrt, "math", "sqrt"),
        (len, "builtins", "len"),
        (int, "builtins", "int"),
        (str.upper, "builtins", "str.upper"),
        (datetime.date, "datetime", "date"),
        (operator.neg, "_operator", "neg"),
        (json.dumps, "json", "dumps"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_function_is_found_by_its_module_and_name(function: Any, where: str, path: str) -> None:
    assert found(function) == ("module", where, path)
    bus = load_app(msgspec.json.decode(msgspec.json.encode(function_spec(function, SETTINGS)), type=AppSpec))
    settings = bus.listeners["f"].settings
    assert (settings.timeout_s, settings.attempts) == (7.0, 3)


def renamed(value: int) -> int:
    return value


hidden = renamed


def renamed(value: int) -> int:  # type: ignore[no-redef]
    return -value


@pytest.mark.parametrize(
    "function",
    [
        lambda value: value,
        functools.partial(mapping.square),
        mapping.Shapes().method,
        mapping.Shapes.made,
        operator.itemgetter(1),
        datetime.date.fromisoformat,
        "".join,
        hidden,
    ],
    ids=["lambda", "partial", "bound", "class method", "object", "of C", "bound of C", "hidden by another"],
)
def test_what_no_other_process_would_find_is_sent(function: Any) -> None:
    spec = function_spec(function, SETTINGS)
    assert (spec.kind, spec.mapped) == ("pickle", SETTINGS)
    assert spec.pickle is not None


@pytest.mark.parametrize("value", [None, 3, "math:sqrt", Outer.Inner.work("x")])
def test_what_is_no_function_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="is not a function"):
        function_spec(value, SETTINGS)


@pytest.mark.parametrize("text", ["math:sqrt", "apps.mapping:Shapes.twice", "no_such:a.b.c"])
def test_a_function_that_is_written_down_is_parsed_and_not_imported(text: str) -> None:
    spec = parse_function_spec(text, SETTINGS)
    assert (f"{spec.value}:{spec.attribute}", spec.mapped) == (text, SETTINGS)


@pytest.mark.parametrize(
    "text", ["", "math", "math:", ":sqrt", "math:sqrt:x", "a b:c", "math:.sqrt", "../x:f"]
)
def test_one_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(BusNotImportable, match="is not module:function, such as math:sqrt"):
        parse_function_spec(text, SETTINGS)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("math:pi", "math:pi is a float, not a function"),
        ("math:no_such", "math has no attribute no_such"),
        ("apps.mapping:Shapes.no_such", "apps.mapping has no attribute Shapes.no_such"),
        ("no_such_module:f", "no module named no_such_module"),
    ],
)
def test_one_that_cannot_be_loaded_is_one_line(text: str, why: str) -> None:
    with pytest.raises(BusNotImportable) as refused:
        load_app(parse_function_spec(text, SETTINGS))
    assert str(refused.value) == why


SCRIPT = """
from durable_bus.app.finding import function_spec
from durable_bus.payloads.settings import MappedSettings
from msgspec.json import encode
class Work:
    @staticmethod
    def f(value): return value
if __name__ == "__main__":
    print(encode(function_spec(Work.f, MappedSettings("f", None, 1))).decode())
"""
LOAD = (
    "import msgspec, sys; from durable_bus.app.finding import load_app\n"
    "from durable_bus.payloads.settings import AppSpec\n"
    "bus = load_app(msgspec.json.decode(sys.stdin.read(), type=AppSpec)); main = sys.modules['__main__']\n"
    "print(list(bus.listeners), main.__name__, main.Work.__module__, main is sys.modules['__mp_main__'])"
)


@pytest.mark.parametrize(
    ("how", "kind", "is_main"),
    [(["script.py"], "path", False), (["-m", "script"], "module", True), (["folder"], "path", False)],
    ids=["script", "module", "folder"],
)
def test_what_runs_is_the_workers_main_too(tmp_path: Path, how: list[str], kind: str, is_main: bool) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__main__.py").write_text(SCRIPT)
    said = python(tmp_path, *how)
    spec = json.loads(said)
    assert (spec["kind"], spec["attribute"], spec["mapped"]["is_main"]) == (kind, "Work.f", is_main)
    assert python(Path("/"), "-c", LOAD, stdin=said) == "['f'] __mp_main__ __mp_main__ True\n"
