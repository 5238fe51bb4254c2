"""The demo's metrics, on snippets whose complexity is known by hand."""

import sys
import sysconfig
import textwrap
import warnings
from pathlib import Path

import pytest

from durable_bus.examples.code_audit import Metrics, measure, sources


def measured(folder: Path, source: str) -> Metrics:
    path = folder / "snippet.py"
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    return measure(str(path))


@pytest.mark.parametrize(
    ("source", "complexity"),
    [
        ("", 1),
        ("x = 1\n", 1),
        ("if a: pass\n", 2),
        ("if a: pass\nelif b: pass\nelse: pass\n", 3),
        ("for a in b: pass\nelse: pass\n", 2),
        ("while a: pass\n", 2),
        ("try: pass\nexcept A: pass\nexcept B: pass\nelse: pass\nfinally: pass\n", 3),
        ("try: pass\nexcept* A: pass\n", 2),
        ("with a: pass\n", 1),
        ("assert a\n", 2),
        ("a = b and c and d or e\n", 4),
        ("a = b if c else d\n", 2),
        ("a = [b for b in c]\n", 2),
        ("a = {b: d for b in c if b if d for d in b}\n", 5),
        ("f = lambda: a if b else c\n", 2),
        ("match a:\n case 1: pass\n case 2 | 3: pass\n case _: pass\n", 3),
        ("match a:\n case _ if b: pass\n case b: pass\n", 2),
        ("def f(): pass\n", 2),
        ("async def f():\n async for a in b: pass\n async with c: pass\n", 3),
        ("def f():\n def g():\n  if a: pass\n", 4),
        ("class C:\n def m(self): return a or b\n", 3),
    ],
)
def test_complexity_is_one_plus_the_decision_points(tmp_path: Path, source: str, complexity: int) -> None:
    assert measured(tmp_path, source).complexity == complexity


def test_a_file_is_measured_whole(tmp_path: Path) -> None:
    metrics = measured(
        tmp_path,
        """\
        import os

        class Outer:
            class Inner:
                @staticmethod
                def long(a):
                    if a:
                        return 1
                    return 2

            def short(self): pass

        def also_short():
            pass
        """,
    )
    assert metrics == Metrics(
        path=str(tmp_path / "snippet.py"),
        module="snippet",
        lines=14,
        functions=3,
        classes=2,
        complexity=5,
        longest_function="Outer.Inner.long",
        longest_function_lines=4,
    )


def test_the_first_of_equally_long_functions_is_named(tmp_path: Path) -> None:
    assert measured(tmp_path, "def a(): pass\ndef b(): pass\n").longest_function == "a"


def test_a_last_line_without_line_feed_counts(tmp_path: Path) -> None:
    assert [measured(tmp_path, text).lines for text in ("", "\n", "a", "a\n", "a\nb")] == [0, 1, 1, 1, 2]


def test_the_file_says_its_encoding(tmp_path: Path) -> None:
    path = tmp_path / "latin.py"
    path.write_bytes(b"# coding: latin-1\ndef caf\xe9(): pass\n")
    assert measure(str(path)).longest_function == "caf\xe9"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"print 'two'\n", SyntaxError),
        (b"# \xff\n", (UnicodeDecodeError, SyntaxError)),
        (b"# coding: no-such-thing\n", SyntaxError),
        (b"a = '\0'\n", (ValueError, SyntaxError)),
        (b"(" * 5000 + b")" * 5000, (SyntaxError, RecursionError, MemoryError)),
    ],
)
def test_what_is_no_python_raises(tmp_path: Path, content: bytes, error: type[Exception]) -> None:
    path = tmp_path / "bad.py"
    path.write_bytes(content)
    with pytest.raises(error):
        measure(str(path))


def test_a_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        measure(str(tmp_path / "missing.py"))


def test_warnings_of_the_file_stay_silent(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        measured(tmp_path, "a = '\\d'\nb = 1 is 1\nassert (a, b)\n")
    assert seen == []


def test_a_long_chain_of_operators_is_no_recursion(tmp_path: Path) -> None:
    depth = sys.getrecursionlimit()
    elifs = "".join(f"elif a == {number}: pass\n" for number in range(depth // 3))
    assert measured(tmp_path, f"if a: pass\n{elifs}").complexity == 2 + depth // 3


def test_modules_have_dotted_names(tmp_path: Path) -> None:
    package = tmp_path / "outer" / "inner"
    package.mkdir(parents=True)
    for path in (package.parent / "__init__.py", package / "__init__.py", package / "leaf.py"):
        path.touch()
    standard_library = Path(sysconfig.get_path("stdlib"))
    names = {
        package / "leaf.py": "outer.inner.leaf",
        package / "__init__.py": "outer.inner",
        standard_library / "os.py": "os",
        standard_library / "json" / "__init__.py": "json",
        standard_library / "json" / "decoder.py": "json.decoder",
    }
    assert {path: measure(str(path)).module for path in names} == names


def test_sources_are_the_standard_library() -> None:
    paths = [source.path for source in sources()]
    standard_library = Path(sysconfig.get_path("stdlib"))
    assert paths == sorted(paths)
    assert len(paths) == len(set(paths))
    assert str(standard_library / "json" / "decoder.py") in paths
    assert not any("site-packages" in path or "__pycache__" in path for path in paths)
    assert all(path.endswith(".py") for path in paths)
