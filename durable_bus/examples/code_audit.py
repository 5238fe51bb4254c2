"""Audit Python source files: one item per file, its size and its cyclomatic complexity as the answer.

`durable-bus demo` runs it over the standard library. By hand, over files of your own, one
`<Source><path>/some/file.py</path></Source>` a line:

    durable-bus run durable_bus.examples.code_audit:bus audit --items sources.txt
"""

import ast
import os
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from durable_bus import Bus

bus = Bus("code-audit")


@dataclass(frozen=True)
class Source:
    """A file to audit."""

    path: str


@dataclass(frozen=True)
class Metrics:
    """What one file holds. Functions include methods and nested functions, but no lambdas."""

    path: str
    module: str
    lines: int
    functions: int
    classes: int
    complexity: int
    longest_function: str
    longest_function_lines: int


@bus.listener("audit", timeout=60)
def audit(source: Source) -> Metrics:
    """Measure one file. What is no Python raises, a failed item each, and the others go on."""
    return measure(source.path)


def sources() -> Iterator[Source]:
    """Every .py file of the running Python's standard library, in the order of their paths."""
    paths = []
    for folder, subfolders, names in os.walk(sysconfig.get_path("stdlib")):
        subfolders[:] = [
            name for name in subfolders if name not in ("__pycache__", "dist-packages", "site-packages")
        ]
        paths += [os.path.join(folder, name) for name in names if name.endswith(".py")]
    return (Source(path) for path in sorted(paths))


def measure(path: str) -> Metrics:
    """Read, parse and measure one file.

    Raises what reading and parsing raise: OSError, UnicodeDecodeError, SyntaxError, ValueError (a NUL in the
    text), RecursionError or MemoryError (nested too deeply for the parser).
    """
    with tokenize.open(path) as file:  # decodes as PEP 263 says: a BOM, a coding comment, else UTF-8
        text = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes and the like are the file's business, not ours
        tree = ast.parse(text, filename=path)

    functions = classes = decisions = longest_lines = 0
    longest = ""
    # A stack of our own: the tree of a long chain of operators is deeper than Python's.
    stack: list[tuple[ast.AST, str]] = [(tree, "")]
    while stack:
        node, scope = stack.pop()
        decisions += _decision_points(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope = f"{scope}.{node.name}" if scope else node.name
            if isinstance(node, ast.ClassDef):
                classes += 1
            else:
                functions += 1
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > longest_lines:
                    longest, longest_lines = scope, lines
        # Reversed, so that they are visited from top to bottom and the first of the longest is named.
        stack += [(child, scope) for child in reversed(list(ast.iter_child_nodes(node)))]

    return Metrics(
        path=path,
        module=_module_name(Path(path)),
        lines=text.count("\n") + (not text.endswith("\n") and text != ""),
        functions=functions,
        classes=classes,
        complexity=1 + functions + decisions,
        longest_function=longest,
        longest_function_lines=longest_lines,
    )


_DECISIONS = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert)


def _decision_points(node: ast.AST) -> int:
    """How many decisions this node, without its children, adds to the paths through the code.

    Cyclomatic complexity is one more than the decision points of a piece of code (T. J. McCabe, "A Complexity
    Measure", IEEE Transactions on Software Engineering SE-2(4), 1976); that of a file is the sum over its
    functions and the module's own code. Counted much as radon counts, whose table is in
    https://radon.readthedocs.io/en/latest/intro.html: one for each if, elif, conditional expression, for,
    while, except and assert, each `and` and `or`, each for and each if of a comprehension, each case that may
    not match. `else`, `finally` and `with` decide nothing and add nothing. The mccabe package counts
    fewer: no operators, no expressions.
    """
    if isinstance(node, _DECISIONS):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.match_case):
        # `case _:` and `case name:` always match, like an else.
        always = isinstance(node.pattern, ast.MatchAs) and node.pattern.pattern is None and node.guard is None
        return 0 if always else 1
    return 0


def _module_name(path: Path) -> str:
    """The dotted name of a file, from the standard library's folder or from its outermost package."""
    path = path.resolve()
    standard_library = Path(sysconfig.get_path("stdlib")).resolve()
    if path.is_relative_to(standard_library):
        top = standard_library
    else:
        top = path.parent
        while (top / "__init__.py").exists() and top != top.parent:
            top = top.parent
    parts = path.relative_to(top).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
