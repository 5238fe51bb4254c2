"""What commands print: answers on stdout, notes on stderr, and numbers as people read them."""

import json
from typing import Any

import click


def answer(as_json: bool, facts: dict[str, Any], line: str) -> None:
    """The facts as JSON, for programs, or the line, for people."""
    if as_json:
        print_json(facts)
    else:
        click.echo(line)


def print_json(facts: object) -> None:
    click.echo(json.dumps(facts, ensure_ascii=False, indent=2))


def buffer_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the view `buffers`, with its flags as JSON has them."""
    return {**row, "paused": bool(row["paused"]), "collect": bool(row["collect"])}


def note(line: str) -> None:
    click.echo(f"durable-bus: {line}", err=True)


def printable(text: str) -> str:
    """One line without control characters: a payload must not be able to command the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


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
