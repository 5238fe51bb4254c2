"""The command line: `durable-bus COMMAND ...`, or `python -m durable_bus COMMAND ...`.

Every command but `completion` takes `--journal PATH` (or DURABLE_BUS_JOURNAL; `journal.db` by default).
Results go to stdout, all else to stderr. The exit codes are in DESIGN section 7.

A command lives in the file of its family. COMMANDS, below, names it: a new one is a line there. A file
imports at its top what its whole family needs, and inside a command what takes long and only that one needs.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from typing import Any

import click

from durable_bus import __version__
from durable_bus.cli.completion import COMPLETE_VARIABLE
from durable_bus.cli.printing import printable
from durable_bus.errors import DurableBusError, UnsupportedPlatform, one_line, said
from durable_bus.wire.imports import to_stay

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "demo": ("demo", "Audit every module of Python's own standard library."),
    "tour": ("tour", "Open a browser on the demo while it runs."),
    "run": ("run", "Fan items out, with a supervisor of its own."),
    "map": ("map", "Call a function with each item of a file."),
    "serve": ("serve", "Serve a journal, in the foreground."),
    "unit": ("unit", "Print a systemd unit that serves a journal."),
    "submit": ("submit", "Fan items out through a daemon."),
    "wait": ("follow", "Wait until a buffer has ended."),
    "results": ("follow", "Print a buffer's results."),
    "status": ("status", "Say how journal, supervisor and buffers are."),
    "cancel": ("control", "End a buffer as it is."),
    "pause": ("control", "Hand out nothing more of a buffer."),
    "resume": ("control", "Go on with a paused buffer."),
    "limit": ("limits", "Show limits, or change one while it runs."),
    "retry": ("control", "Start what failed again."),
    "send": ("control", "Send a message to a listener or mailbox."),
    "receive": ("control", "Print the next message to a mailbox."),
    "metrics": ("metrics", "Print counters and gauges for Prometheus."),
    "web": ("web", "Look at a journal in a browser."),
    "top": ("top", "Watch buffers and workers, live."),
    "query": ("journal", "Ask the journal in SQL, read-only."),
    "check": ("journal", "Look for anything wrong in the journal."),
    "migrate": ("journal", "Bring the journal's schema up to this version."),
    "backup": ("journal", "Copy the journal, consistently."),
    "vacuum": ("journal", "Give the room of pruned rows back."),
    "export": ("follow", "Write the results of a buffer as one file."),
    "trace": ("trace", "Write who ran what when, for a trace viewer."),
    "prune": ("control", "Drop what ended long ago."),
    "replay": ("replay", "See what happened, and do again what was left."),
    "completion": ("completion", "Print a shell's completion script."),
}
"""A command's name, the module of this package that has it as the click command `NAME_command`, and what it
does.
"""

EXIT_INTERRUPTED = 4
EXIT_STORAGE = 5
EXIT_BUG = 70
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell reports of programs that die of it


class _Commands(click.Group):
    """Loads a command when it is asked for, and none for `--help`."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        with to_stay():
            module = import_module(f"durable_bus.cli.{COMMANDS[name][0]}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, does) for name, (_, does) in COMMANDS.items()])


@click.group(
    cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, message="durable-bus %(version)s")
@click.pass_context
def commands(context: click.Context) -> int:
    """Fan items out to worker processes, collect the results, lose nothing whatever is killed when.

    Exit codes: 0 all succeeded, 1 some items failed, 2 wrong usage or refused, 3 not found, 4 interrupted
    (run it again to go on), 5 journal or storage, 6 time-out.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        return 2
    return 0


def check_platform(system: str, python: tuple[int, ...], sqlite: tuple[int, ...]) -> None:
    """Raises UnsupportedPlatform, one line that says what is needed and what is here."""
    if not system.startswith("linux") or python < (3, 11) or sqlite < (3, 38):
        here = f"{system}, Python {_dotted(python)}, SQLite {_dotted(sqlite)}"
        raise UnsupportedPlatform(
            f"durable_bus needs Linux, Python 3.11 and SQLite 3.38, or newer; this is {here}"
        )


def _dotted(version: tuple[int, ...]) -> str:
    # Not by map: once it is imported, the module of that command has this name here.
    return ".".join(str(part) for part in version)


def main(arguments: list[str] | None = None) -> int:
    """The console script: run a command, say in one line what went wrong, return the exit code."""
    stdout_is_closed = sys.stdout is None
    _take_closed_places()
    try:
        from sqlite3 import sqlite_version_info

        check_platform(sys.platform, sys.version_info[:3], sqlite_version_info)
        # Not commands.main(): that takes a broken pipe for exit code 1, which says that items have failed.
        given = sys.argv[1:] if arguments is None else arguments
        if instruction := os.environ.get(COMPLETE_VARIABLE):
            from click.shell_completion import shell_complete

            return shell_complete(commands, {}, "durable-bus", COMPLETE_VARIABLE, instruction)
        with commands.make_context("durable-bus", list(given)) as context:
            code: Any = commands.invoke(context)
        sys.stdout.flush()
        return int(code or 0)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return _complain(_usage_message(error), 2)
    except DurableBusError as error:
        return _complain(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        _forget_stdout()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        if stdout_is_closed and error.errno == errno.EBADF:
            _forget_stdout()
            return _complain("cannot write to stdout: it is closed", EXIT_STORAGE)
        return _complain(said(error), EXIT_STORAGE)
    except Exception as error:
        if str(error) == "can't start new thread":  # all that Python says of it
            return _complain("cannot start a thread: there is no room for one more here", EXIT_STORAGE)
        import traceback

        traceback.print_exc()
        return _complain("this is a bug of durable_bus", EXIT_BUG)


def _take_closed_places() -> None:
    """Standard files that we were started without (`>&-`) come to be there: who writes to stdout gets EBADF,
    as by the closed file itself, and what is said on stderr is lost.

    Python has None for them, and the next file that is opened, the journal maybe, would be file 1 or 2, to
    which handlers and libraries print.
    """
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, flags)  # the lowest that is free: its own place
            os.set_inheritable(fd, fd <= 2)
            if name != "stdin":  # who reads it says that it is closed
                setattr(sys, name, open(fd, "w", closefd=False))  # noqa: SIM115  as long as the process


def _usage_message(error: click.ClickException) -> str:
    message = one_line(error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message} (see {context.command_path} --help)" if context is not None else message


def _complain(message: str, code: int) -> int:
    try:
        print(f"durable-bus: {printable(message)}", file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody reads it; the exit code says the same
    return code


def _forget_stdout() -> None:
    """Python would complain about the same pipe or file once more at its end."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.close(devnull)
