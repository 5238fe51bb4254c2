"""Options and arguments that several commands share, with what a shell completes them to."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from durable_bus.journal.reader import JournalReader

Command = TypeVar("Command", bound=Callable[..., Any])

_ENDED_COMPLETED_MAX = 100
_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class _Seconds(click.FloatRange):
    """A duration, however long, `inf` among them. NaN is none: it is neither below 0 nor ever over."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


class _Age(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """An age as people write it, such as 30d, 12h, 90m or 45s, in milliseconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d{1,9})([smhd])", value)
        if match is None:
            self.fail(f"{value!r} is no age such as 30d, 12h, 90m or 45s", param, ctx)
        return int(match[1]) * _UNITS_MS[match[2]]


class _Time(click.ParamType):  # type: ignore[type-arg]
    """A time, local where it has no zone, or a duration from now such as 30s, 10m, 2h or +1d; as seconds
    since the epoch.
    """

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        if match := re.fullmatch(r"\+?(\d{1,9})([smhd])", value):
            return time.time() + int(match[1]) * _UNITS_MS[match[2]] / 1000
        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            self.fail(f"{value!r} is no time such as 2027-01-31T03:00 or +2h", param, ctx)


class _Amount(click.ParamType):  # type: ignore[type-arg]
    """UNIT=AMOUNT, as a pair. What may be a unit or an amount, `client.terms` says."""

    name = "amount"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        unit, _, amount = value.partition("=")
        try:
            return unit, float(amount)
        except ValueError:
            self.fail(f"{value!r} is no UNIT=AMOUNT such as usd=5", param, ctx)


SECONDS = _Seconds(min=0)
AGE = _Age()


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


def _completed_from_journal(names: Callable[[JournalReader], list[str]]) -> Callable[..., list[str]]:
    """Completes a word to names that a journal holds."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        from durable_bus.journal.reader import JournalReader

        with contextlib.suppress(Exception), JournalReader(context.params["journal"]) as reader:
            return [name for name in names(reader) if name.startswith(incomplete)]
        return []  # a shell that completes has no place for an error

    return complete


def _buffer_ids(reader: JournalReader) -> list[str]:
    """Of open buffers, and of those that ended last."""
    rows = reader.open_buffers() + reader.rows("last_ended_buffers", limit=_ENDED_COMPLETED_MAX)
    return [row["buffer_id"] for row in rows]


def _listeners(reader: JournalReader) -> list[str]:
    """Of the app that has served the journal last."""
    row = reader.row("newest_run_facts")
    return sorted(json.loads(row["listeners"])) if row else []


def _limits(reader: JournalReader) -> list[str]:
    """Of the app that has served the journal last."""
    return [row["name"] for row in reader.limits()]


_buffer = _completed_from_journal(_buffer_ids)
_listener = _completed_from_journal(_listeners)

buffer_argument = click.argument("buffer_id", metavar="BUFFER", shell_complete=_buffer)

optional_buffer_argument = click.argument(
    "buffer_id", metavar="[BUFFER]", required=False, shell_complete=_buffer
)

target_argument = click.argument("target", metavar="TARGET", shell_complete=_listener)

to_argument = click.argument("to", metavar="TO", shell_complete=_listener)

limit_argument = click.argument(
    "name", metavar="[NAME]", required=False, shell_complete=_completed_from_journal(_limits)
)

items_option = click.option(
    "--items",
    "items_path",
    required=True,
    metavar="FILE",
    help="The items, UTF-8; - is stdin. A line each, stripped, empty ones dropped; or see --items-format.",
)

items_format_option = click.option(
    "--items-format",
    type=click.Choice(["lines", "jsonl", "csv", "parquet"]),
    help="Default: by FILE's ending (.jsonl, .ndjson, .csv, .parquet), else lines. jsonl: a JSON value a "
    "line. csv: a JSON object a row, with the header's names. parquet: the same, needs durable-bus[arrow].",
)

buffer_id_option = click.option("--buffer-id", metavar="ID", help="Name the buffer yourself.")

wait_daemon_option = click.option(
    "--wait-daemon",
    "wait_daemon_s",
    type=SECONDS,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a daemon that is not there yet.",
)

workers_option = click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Worker processes; default: the usable cores."
)


def engine_options(command: Command) -> Command:
    """Where items run."""
    for option in (
        click.option(
            "--engine-workers",
            type=click.IntRange(min=1),
            metavar="N",
            help="How many batches the engine may hold at once; default: twice as many as it runs at once.",
        ),
        click.option(
            "--engine",
            metavar="SPEC",
            help="Where items run: local (default), process:N, loky:N, dask:ADDRESS, executorlib:N, mpi, or "
            "MODULE:FACTORY of an Executor.",
        ),
    ):
        command = option(command)
    return command


durability_option = click.option(
    "--durability",
    type=click.Choice(["full", "normal"]),
    default="full",
    show_default=True,
    help="full survives a power cut; normal survives every kill, and is faster on slow disks.",
)


def written_as(what: str, *names: str) -> Callable[[Command], Command]:
    """`--format NAME`; the first is the default."""
    choice = click.Choice(names)
    help = f"How {what} are written."
    return click.option(
        "--format", "format_name", type=choice, default=names[0], show_default=True, help=help
    )


output_option = click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write results there, whole or not at all, instead of to stdout.",
)


def results_options(command: Command) -> Command:
    """`--format`, `--with-items` and `--output`: how results are written, as `output.Written` has it."""
    with_items = click.option(
        "--with-items", is_flag=True, help="Each result with its item; not in xml, which has no place for it."
    )
    formats = written_as("results", "xml", "jsonl", "csv", "parquet")
    return formats(with_items(output_option(command)))


retry_failed_option = click.option(
    "--retry-failed",
    is_flag=True,
    help="Start failed items once more, as BUFFER.retry1, .retry2, ...; prints each item's newest result.",
)

max_failures_option = click.option(
    "--max-failures",
    type=click.IntRange(min=0),
    metavar="N",
    help="Stop, with exit code 1, when more than N items have failed; with a higher N it goes on.",
)

quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress on stderr; errors only.")

json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


def _as_budget(
    context: click.Context, parameter: click.Parameter, given: tuple[tuple[str, float], ...]
) -> dict[str, float]:
    if len(dict(given)) < len(given):
        raise click.BadParameter("a unit is given twice", context, parameter)
    return dict(given)


def budget_option(help: str) -> Callable[[Command], Command]:
    """`--budget UNIT=AMOUNT`, any number of times; a dict."""
    return click.option(
        "--budget", type=_Amount(), metavar="UNIT=AMOUNT", multiple=True, callback=_as_budget, help=help
    )


def terms_options(command: Command) -> Command:
    """`--priority`, `--not-before`, `--deadline`, `--enough`, `--budget`: when a buffer runs, and how long.
    They are keywords of `client.terms.terms_of`.
    """
    for option in (
        budget_option("Pause it when handlers have spent so much, such as usd=5; may be repeated."),
        click.option(
            "--enough", type=click.IntRange(min=1), metavar="N", help="End it when N items have succeeded."
        ),
        click.option(
            "--deadline", type=SECONDS, metavar="SECONDS", help="End it as it is, so long after its start."
        ),
        click.option(
            "--not-before",
            type=_Time(),
            metavar="TIME",
            help="Start nothing of it before: 2027-01-31T03:00, or from now 30s, 10m, 2h, 1d.",
        ),
        click.option(
            "--priority",
            type=click.IntRange(-10, 10),
            default=0,
            show_default=True,
            metavar="N",
            help="From -10 to 10: what is higher goes first.",
        ),
    ):
        command = option(command)
    return command


TERMS = ("priority", "not_before", "deadline", "enough", "budget")
"""The names of what `terms_options` give."""


def run_options(command: Command) -> Command:
    """All that `run` and `map` have in common, as `run.run_items` has it."""
    for option in (
        quiet_option,
        max_failures_option,
        retry_failed_option,
        durability_option,
        results_options,
        engine_options,
        workers_option,
        buffer_id_option,
        journal_option(),
        items_format_option,
        items_option,
    ):  # the last of them comes first in --help
        command = option(command)
    return command
