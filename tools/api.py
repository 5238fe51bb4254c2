#!/usr/bin/env python3
"""Writes durable_bus/API.md from the docstrings of the public names.

    tools/api.py            write it
    tools/api.py --check    exit code 1 when it is not what the docstrings say now

The sources are read, not imported: the page is the same under every Python.
"""

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "durable_bus"
PAGE = PACKAGE / "API.md"
WIDTH = 100

HEAD = """# The API

Everything is imported from `durable_bus`, unless it says otherwise. Times are in seconds, unless their names
say otherwise. Every error is a `DurableBusError`. `tools/api.py` writes this page from the docstrings.
"""

# A class or function, and the file that has it, in the order in which a user meets them.
GROUPS: dict[str, dict[str, str]] = {
    "A function over many items": {
        "map": "client/mapping.py",
    },
    "An app: listeners and what they return": {
        "Bus": "app/bus.py",
        "HandlerMetadata": "payloads/messages.py",
        "HandlerResponse": "payloads/messages.py",
        "BufferStart": "payloads/messages.py",
        "RetryAfter": "errors.py",
    },
    "A client: starting buffers, following them, messages": {
        "Client": "client/client.py",
        "Buffer": "client/buffer.py",
        "Stream": "client/stream.py",
        "Result": "payloads/messages.py",
        "BufferStatus": "client/buffer.py",
        "ReceivedMessage": "client/mailbox.py",
        "LimitSetting": "client/limits.py",
    },
    "A journal read by itself": {
        "OpenedJournal": "client/opened.py",
        "Failure": "client/opened.py",
        "Limit": "client/limits.py",
        "Spending": "client/limits.py",
    },
    "Payloads": {
        "Text": "payloads/messages.py",
        "Xml": "payloads/messages.py",
        "Json": "payloads/messages.py",
        "BufferComplete": "payloads/messages.py",
        "BufferDispatched": "payloads/messages.py",
        "BufferItem": "payloads/messages.py",
        "Huh": "payloads/messages.py",
        "SystemError": "payloads/messages.py",
    },
}
MADE_BY_OTHERS = {"Buffer", "Stream"}
NOT_FOR_USERS = {
    "Bus.settings",
    "BufferComplete.reading",
    "Client.reader",
    "Client.stream_upload",
    "Client.wait_until",
}
"""Methods that the package's other parts call."""
ERRORS = "errors.py"


def page() -> str:
    """The whole page."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join([HEAD, *sections(), *errors()])).rstrip() + "\n"


def sections() -> Iterator[str]:
    for title, classes in GROUPS.items():
        yield f"\n## {title}\n"
        for name, file in classes.items():
            known = constants(file)
            node = named(name, tree(file))
            yield f"\n### {name}\n"
            if isinstance(node, ast.FunctionDef):
                yield code(signature(node, skipped=0))
                yield docstring(node)
                continue
            if name not in MADE_BY_OTHERS:
                yield code(call(name, list(constructor(node))))
            yield docstring(node)
            if name not in MADE_BY_OTHERS:
                yield from constructor_docstring(node)
            for method in methods(node):
                yield f"\n#### {name}.{method.name}\n"
                yield code(
                    re.sub(r"(?<== )[A-Z_]+\b", lambda name, known=known: known[name[0]], signature(method))
                )
                yield docstring(method)


def errors() -> Iterator[str]:
    module = tree(ERRORS)
    yield "\n## Errors\n"
    yield "`DurableBusError`, `BufferError`, `ItemFailed` and `RetryAfter` are in `durable_bus`, the others"
    yield "in `durable_bus.errors`.\n"
    yield (docstring(module).replace("::\n\n", "```\n").replace("\n\nA class's", "\n```\n\nA class's"))
    yield "\n| error | is |\n| --- | --- |"
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            means = docstring(node).partition("\n\n")[0].replace("\n", " ").rstrip(".")
            yield f"| `{node.name}` | {means} |"


def tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))


def constants(file: str) -> dict[str, str]:
    """What the names of a module stand for that defaults may be, its own and those that it imports."""
    known: dict[str, str] = {}
    for node in tree(file).body:
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            known[ast.unparse(node.target)] = ast.unparse(node.value)
        elif isinstance(node, ast.Assign):
            known[ast.unparse(node.targets[0])] = ast.unparse(node.value)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("durable_bus."):
            for name in (alias.name for alias in node.names if alias.name.isupper()):
                known[name] = constants(f"{str(node.module).partition('.')[2].replace('.', '/')}.py")[name]
    return known


def named(name: str, module: ast.Module) -> ast.ClassDef | ast.FunctionDef:
    """The class or function of this name; of one with overloads the function itself, which is the last."""
    found = [
        node for node in module.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name
    ]
    return found[-1]


def constructor(node: ast.ClassDef) -> Iterator[str]:
    """The parameters: of `__init__`, or the fields of a dataclass or named tuple."""
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and one.name == "__init__":
            yield from parameters(one)
            return
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and not ast.unparse(one.target).startswith("_"):
            if one.value is None:
                yield f"{ast.unparse(one.target)}: {ast.unparse(one.annotation)}"
            elif not isinstance(one.value, ast.Call):
                yield ast.unparse(one)
            else:  # field(...): only what it is called and made of is of interest
                yield f"{ast.unparse(one.target)}: {ast.unparse(one.annotation)} = ..."


def constructor_docstring(node: ast.ClassDef) -> Iterator[str]:
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and one.name == "__init__" and ast.get_docstring(one):
            yield f"\n{docstring(one)}"


def methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    for one in node.body:
        is_public = isinstance(one, ast.FunctionDef) and not one.name.startswith("_")
        if isinstance(one, ast.FunctionDef) and is_public and f"{node.name}.{one.name}" not in NOT_FOR_USERS:
            yield one


def signature(method: ast.FunctionDef, *, skipped: int = 1) -> str:
    """`skipped`: so many parameters are not the caller's: `self`."""
    decorators = {ast.unparse(decorator) for decorator in method.decorator_list}
    returns = "" if method.returns is None else f" -> {unquoted(method.returns)}"
    if "property" in decorators:
        return method.name + returns
    return call(method.name, list(parameters(method, skipped=skipped)), returns)


def parameters(method: ast.FunctionDef, *, skipped: int = 1) -> Iterator[str]:
    """One by one, without the first `skipped`."""
    arguments = method.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    for argument, default in list(zip(positional, defaults, strict=True))[skipped:]:
        yield parameter(argument, default)
    if arguments.kwonlyargs:
        yield "*"
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if not argument.arg.startswith("_"):
            yield parameter(argument, default)
    if arguments.kwarg is not None:
        yield "**" + parameter(arguments.kwarg, None)


def parameter(argument: ast.arg, default: ast.expr | None) -> str:
    annotation = "" if argument.annotation is None else f": {unquoted(argument.annotation)}"
    return argument.arg + annotation + ("" if default is None else f" = {ast.unparse(default)}")


def unquoted(annotation: ast.expr) -> str:
    """An annotation that was written as a string says a name."""
    return str(annotation.value) if isinstance(annotation, ast.Constant) else ast.unparse(annotation)


def call(name: str, arguments: list[str], returns: str = "") -> str:
    """On one line where it fits, else an argument a line."""
    line = f"{name}({', '.join(arguments)}){returns}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f"){returns}"


def code(text: str) -> str:
    return f"```python\n{text}\n```\n"


def docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    text = ast.get_docstring(node)
    if text is None:
        raise SystemExit(f"api.py: {getattr(node, 'name', 'a module')} has no docstring")
    return textwrap.dedent(text)


def main() -> int:
    """Exit code 1: `--check` has found another page."""
    text = page()
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"api.py: {PAGE} is not what the docstrings say: run tools/api.py\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
