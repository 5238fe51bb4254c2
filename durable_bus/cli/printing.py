"""What commands print: answers on stdout, notes on stderr, and numbers as people read them."""

import json
import re
import unicodedata
from typing import Any

import click


def answer(as_json: bool, facts: dict[str, Any], line: str) -> None:
    """The facts as JSON, for programs, or the line, for people, with its control characters escaped."""
    if as_json:
        print_json(facts)
    else:
        click.echo(escaped(line))


def print_json(facts: object) -> None:
    click.echo(escaped(json.dumps(facts, ensure_ascii=False, indent=2)))


def buffer_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the view `buffers`, with its flags as JSON has them."""
    return {**row, "paused": bool(row["paused"]), "collect": bool(row["collect"])}


def note(line: str) -> None:
    click.echo(f"durable-bus: {printable(line)}", err=True)


_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""All that steers a terminal, or the direction of what it shows; not tab and line feed."""


def escaped(text: str) -> str:
    """Text of several lines with its control characters as escapes, such as \\u001b: a payload must not be
    able to command the terminal. What is JSON stays that.
    """
    return _CONTROL.sub(_escape, text)


def printable(text: str) -> str:
    """The same on one line: no line feed and nothing invisible either; every sort of space is one."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else " " if unicodedata.category(c) == "Zs" else _escape(c) for c in text
    )


def _escape(found: re.Match[str] | str) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shortened(name: str, chars_max: int) -> str:
    """A name in a column: its middle is left out, because what differs is often the end."""
    return name if len(name) <= chars_max else f"{name[: chars_max - 11]}…{name[-10:]}"


def rate(count: float, seconds: float) -> str:
    per_second = count / seconds if seconds > 0 else 0.0
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"


def duration(seconds: float) -> str:
    """Such as `8.1 s`, `4 min 10 s`, `3 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds:.0f} s"


def size(count_bytes: int) -> str:
    """Such as `12 bytes`, `4.0 KiB`, `1.2 GiB`."""
    if count_bytes < 1024:
        return f"{count_bytes} bytes"
    size = count_bytes / 1024
    for unit in ("KiB", "MiB"):
        if size < 1024:
            return f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def amount(value: float) -> str:
    """Such as `5`, `0.002`, `1,200,000`: what was spent. A sum of fractions is rounded."""
    if 0 < value < 1e-6:
        return f"{value:.3g}"
    text = f"{value:,.6f}"
    return text.rstrip("0").rstrip(".")
