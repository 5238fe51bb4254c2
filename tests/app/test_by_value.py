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


CHANGES = [
    ("import pydantic\nclass M(pydantic.BaseModel):\n  n: int = 1\ndef f(x): return M(n=x)", "int", "float"),
    ("import pydantic\nclass M(pydantic.BaseModel):\n  n: int = 1\ndef f(x): return M()", "= 1", "= 2"),
    ("class M:\n  __rate__ = 2\ndef f(x): return M.__rate__", "= 2", "= 3"),
    (
        "def g(a, b): return a / b\ndef f(x): return g(a=x, b=10)",
        "g(a, b): return a / b",
        "g(b, a): return b / a",
    ),
    ("def f(x, lo=1): return dict(locals())", "lo", "hi"),
    ("class M:\n  def v(s): return 1\ndef f(x): return M().v", "  def", "  @property\n  def"),
    ("class M:\n  @staticmethod\n  def v(*a): return a\ndef f(x): return M.v(x)", "static", "class"),
    (
        "class M:\n  def g(s): pass\n  def h(s, n): s.n = n\n  v = property(g, h)\ndef f(x): M().v = x",
        "s.n = n",
        "s.n = n + 1",
    ),
    ("def a(x): return x + 1\nS = {a}\ndef f(x): return [g(x) for g in S]", "+ 1", "+ 2"),
    ("import types\nT = types.MappingProxyType({1: 2})\ndef f(x): return T", "1: 2", "1: 3"),
    ("class M:\n  import types\n  T = types.MappingProxyType({1: 2})\ndef f(x): return M.T", "1: 2", "1: 3"),
    (
        "a = lambda x: x + 1\nb = lambda x: x * 2\nclass M:\n  p = staticmethod(a)\n  q = staticmethod(b)\n"
        "  r = staticmethod(a)\ndef f(x): return M.r(x)",
        "r = staticmethod(a)",
        "r = staticmethod(b)",
    ),
    ("class T(type):\n  def g(c): return 1\nclass M(metaclass=T): pass\ndef f(x): return M.g()", "1", "2"),
    ("def f(x): return f.k\nf.k = 2", "k = 2", "k = 3"),
    (
        "def g(x): raise ValueError\n"
        "def f(x):\n  try:\n    int(x)\n    return g(x)\n  except ValueError:\n    return 7",
        "    return g(x)\n  except ValueError:\n    return 7",
        "  except ValueError:\n    return 7\n  else:\n    return g(x)",
    ),
    ("class S(set): pass\nT = S(['a', 'b', 'c'])\ndef f(x): return T", "'b'", "'d'"),
]
"""A function f, a part of it, and what that becomes."""


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

    def test_what_cannot_be_walked_is_known_by_its_pickle(self) -> None:
        class Refuses:
            def __reduce__(self) -> str:
                raise TypeError

        function = functools.partial(str, Refuses())
        assert identity(function, b"a") == identity(function, b"a") != identity(function, b"b")

    @pytest.mark.parametrize(("source", "old", "new"), CHANGES, ids=lambda text: text[-20:])
    def test_whatever_changes_what_it_does_makes_it_another_one(
        self, source: str, old: str, new: str
    ) -> None:
        changed = source.replace(old, new)
        assert changed != source
        assert known_as(source) == known_as(f"\n{source}")
        assert known_as(source) != known_as(changed)

    def test_names_of_attributes_are_not_names_of_the_notebook(self) -> None:
        source = "def f(d): return sum(d.values())"
        assert known_as(source) == known_as(f"values = 7\n{source}")

    def test_much_that_is_shared_through_sets_takes_no_time(self) -> None:
        """Each layer doubled it."""
        source = (
            "class N:\n  def __init__(s, kids): s.kids = set(kids)\n"
            "layer = [N([]), N([])]\nfor _ in range(60): layer = [N(layer), N(layer)]\n"
            "layer[0].kids.add(layer[0])\ndef f(x): return layer[0]"
        )
        assert known_as(source) == known_as(source)

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

    def test_a_struct_of_main_is_none(self) -> None:
        """cloudpickle makes another class of it, without fields."""
        f = made("import msgspec\nclass M(msgspec.Struct):\n  n: int = 1\ndef f(x): return M(n=x)")
        with pytest.raises(UsageError, match=r"as it uses M: a msgspec Struct of __main__: let it"):
            function_spec(f, SETTINGS)

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
