"""A function that no other process could import: it is sent, with what it uses, and known again."""

import functools
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import environment

from durable_bus.app import by_value
from durable_bus.app.by_value import function_pickle, identity
from durable_bus.app.finding import function_spec, load_app
from durable_bus.errors import BusNotImportable, UsageError
from durable_bus.payloads.messages import Pickled
from durable_bus.payloads.settings import AppSpec, MappedSettings
from durable_bus.payloads.values import pickled

SETTINGS = MappedSettings("f", None, 1)


def made(source: str, name: str = "f") -> Callable[..., Any]:
    """What a notebook makes of a cell."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(source, names)
    function: Callable[..., Any] = names[name]
    return function


def known_as(source: str, name: str = "f") -> str:
    function = made(source, name)
    return identity(function, function_pickle(function, name))


ADD = "import math\nn = 1\ndef g(x): return x + n\ndef f(x, k=2): return g(x) * k + math.floor(0.5)"


class TestIdentity:
    @pytest.mark.parametrize(
        "other",
        [
            ADD.replace("x + n", "x - n"),
            ADD.replace("n = 1", "n = 2"),
            ADD.replace("k=2", "k=3"),
            ADD.replace("0.5", "1.5"),
            ADD.replace("math.floor", "math.ceil"),
            ADD.replace("n = 1", "n = [1, {2}]"),
        ],
        ids=["what it calls", "a value", "a default", "a constant", "a name", "another type"],
    )
    def test_another_function_is_another_one(self, other: str) -> None:
        assert known_as(ADD) != known_as(other)

    def test_where_it_stands_and_what_it_does_not_use_is_nothing(self) -> None:
        assert known_as(ADD) == known_as("\n\nunused = 7\n" + ADD)

    def test_inner_functions_differ_by_what_they_hold(self) -> None:
        def multiplied(k: int) -> Callable[[int], int]:
            return lambda x: x * k

        two, three = multiplied(2), multiplied(3)
        assert identity(two, b"") == identity(multiplied(2), b"")
        assert identity(two, b"") != identity(three, b"")
        assert identity(functools.partial(two, 1), b"") != identity(functools.partial(two, 2), b"")

    def test_one_that_calls_itself_has_one(self) -> None:
        source = "def f(n): return n and f(n - 1)"
        assert known_as(source) == known_as(source)
        assert known_as(source) != known_as(source.replace("- 1", "- 2"))

    def test_a_class_is_what_stands_in_it(self) -> None:
        source = "class C:\n  k = 1\n  @classmethod\n  def g(c, x): return x + c.k\ndef f(x): return C.g(x)"
        assert known_as(source) == known_as("\n" + source)
        for changed in ("k = 2", "k = 1.0", "k = {1: 2}"):
            assert known_as(source) != known_as(source.replace("k = 1", changed))
        assert known_as(source) != known_as(source.replace("x + c", "x - c"))

    def test_an_object_is_its_class_and_what_it_holds(self) -> None:
        source = "class C:\n  def __init__(c, k): c.k = k\n  def __call__(c, x): return x + c.k\nf = C(1)"
        assert known_as(source) == known_as(source)
        assert known_as(source) != known_as(source.replace("C(1)", "C(2)"))
        assert known_as(source) != known_as(source.replace("x + c", "x - c"))

    def test_a_cache_is_nothing(self) -> None:
        source = "from functools import cache\n@cache\ndef f(x): return x + 1"
        assert known_as(source) == known_as(source)
        assert known_as(source) != known_as(source.replace("+ 1", "+ 2"))

    def test_it_is_the_same_in_every_process(self) -> None:
        """Sets of text have another order in each, and code another file."""
        source = ADD + "\ndef h(x): return x in {'a', 'bc', 'd', 'ef'} or f(x)"
        known = f"exec({source!r})\nprint(identity(h, function_pickle(h, 'h')))"
        program = f"from durable_bus.app.by_value import *\n{known}"
        seen = {
            subprocess.run(
                [sys.executable, "-c", program],
                env=environment() | {"PYTHONHASHSEED": str(seed)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in range(3)
        }
        assert seen == {known_as(source, "h") + "\n"}

    def test_what_is_in_no_pickle_of_ours_is_known_by_cloudpickles(self) -> None:
        memory = memoryview(b"abc")

        def at(x: int) -> int:
            return memory[x]

        data = function_pickle(at, "at")
        assert identity(at, data) == identity(at, data) != identity(at, data + b"x")

    def test_an_enum_is_its_members(self) -> None:
        source = "import enum\nclass C(enum.Enum):\n  A = 'a'\n  B = 'b'\ndef f(x): return C(x)"
        assert known_as(source) == known_as(source)
        assert known_as(source) != known_as(source.replace("= 'b'", "= 'c'"))

    def test_a_model_is_the_same_in_every_process(self) -> None:
        """pydantic notes addresses in it."""
        source = "import pydantic\nclass M(pydantic.BaseModel):\n  n: int\ndef f(x): return M(n=x)"
        assert known_as(source) == known_as(source)


class TestWhatCannotBeSent:
    def test_it_is_named(self) -> None:
        lock = threading.Lock()

        def locked(x: int) -> int:
            with lock:
                return x

        with pytest.raises(
            UsageError, match="locked, and it cannot be sent to them, as it uses lock: cannot "
        ):
            function_spec(locked, SETTINGS)
        with pytest.raises(
            UsageError, match="no worker could import partial, and it cannot be sent to them: "
        ):
            function_spec(functools.partial(locked), SETTINGS)

    def test_what_is_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(by_value, "FUNCTION_BYTES_MAX", 5_000)
        long = bytes(5_000)
        with pytest.raises(UsageError, match=r"are 5,\d+ bytes, more than 5,000: give what is long "):
            function_spec(lambda x: long[x], SETTINGS)

    def test_what_cannot_be_loaded_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
        monkeypatch.setattr(sys, "path", list(sys.path))
        data = b"cno_such_module\nf\n."
        spec = AppSpec("pickle", "__main__", "f", sys.path, mapped=SETTINGS, pickle=data)
        with pytest.raises(BusNotImportable) as refused:
            load_app(spec)
        assert str(refused.value) == "loading f failed: ModuleNotFoundError: No module named 'no_such_module'"


LOADING = """
import sys, msgspec
from durable_bus.app.finding import load_app
from durable_bus.payloads.settings import AppSpec
bus = load_app(msgspec.json.decode(sys.stdin.buffer.read(), type=AppSpec))
print(bus.listeners["f"].handler(3))
print(sorted(name for name in vars(sys.modules["__main__"]) if not name.startswith("_")))
"""


def test_classes_of_main_come_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle has their name only. A class that cannot be sent, or made again, does not stop the others."""
    import msgspec

    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec(
        "import threading\n"
        "class Outer:\n  class Inner: pass\n"
        "class Locked: lock = threading.Lock()\n"
        "class Here(type):\n  def __init__(c, *a): __import__('sys').modules['pytest']\n"
        "class Once(metaclass=Here): pass\n"
        "def f(x): return (x, type(x)(Outer is __import__('__main__').Outer))",
        vars(main),
    )
    spec = function_spec(main.f, SETTINGS)
    done = subprocess.run(
        [sys.executable, "-c", LOADING],
        input=msgspec.json.encode(spec),
        env=environment(),
        capture_output=True,
    )
    assert done.stderr == b""
    answer, names = done.stdout.decode().splitlines()
    assert answer == str(Pickled(pickled((3, 1))))
    assert names == "['Here', 'Outer']"
