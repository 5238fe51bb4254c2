"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = [
    "SECONDS",
    "buffer_argument",
    "buffer_id_option",
    "durability_option",
    "format_option",
    "items_option",
    "journal_option",
    "json_option",
    "output_option",
    "quiet_option",
    "workers_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])


class _Seconds(click.FloatRange):
    """A duration, however long, `inf` among them. NaN is none: it is neither below 0 nor ever over."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


SECONDS = _Seconds(min=0)


def journal_option(default: str = "journal.db") -> Callable[[Command], Command]:
    """`--journal PATH`; every command has it."""
    return click.option(
        "--journal",
        type=click.Path(path_type=Path),
        default=default,
        envvar="DURABLE_BUS_JOURNAL",
        show_default=True,
        metavar="PATH",
        help="The journal; also DURABLE_BUS_JOURNAL.",
    )


buffer_argument = click.argument("buffer_id", metavar="BUFFER")

items_option = click.option(
    "--items",
    "items_path",
    required=True,
    metavar="FILE",
    help="An item a line, UTF-8; - is stdin. Lines are stripped, empty ones dropped.",
)

buffer_id_option = click.option("--buffer-id", metavar="ID", help="Name the buffer yourself.")

workers_option = click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Worker processes; default: the usable cores."
)

durability_option = click.option(
    "--durability",
    type=click.Choice(["full", "normal"]),
    default="full",
    show_default=True,
    help="full survives a power cut; normal survives every kill, and is faster on slow disks.",
)

format_option = click.option(
    "--format",
    "format_name",
    type=click.Choice(["xml", "jsonl", "csv"]),
    default="xml",
    show_default=True,
    help="How results are written.",
)

output_option = click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write results there, whole or not at all, instead of to stdout.",
)

quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress on stderr; errors only.")

json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
