"""Processes that run a module of this package: a supervisor of one's own, workers."""

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from durable_bus import __version__
from durable_bus.errors import InsideHandler, UnsupportedPlatform
from durable_bus.payloads.settings import AppSpec
from durable_bus.wire.memory_file import memory_file, read_memory_file

if TYPE_CHECKING:
    import subprocess

__all__ = [
    "INSIDE_HANDLER_VARIABLE",
    "EngineSpec",
    "SupervisorArguments",
    "WorkerArguments",
    "arguments_of",
    "refuse_inside_handler",
    "spawn",
    "take_closed_places",
]

INSIDE_HANDLER_VARIABLE = "DURABLE_BUS_INSIDE_HANDLER"
"""Set in workers, and so in what their handlers start, to the journal they work for."""

# Not by pathlib, whose import takes 3 ms: a worker has no other use for it.
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def refuse_inside_handler(journal: str | os.PathLike[str]) -> None:
    """A handler that waits for its own bus holds a worker that the answer may need. Raises InsideHandler."""
    served = os.environ.get(INSIDE_HANDLER_VARIABLE)
    if served and os.path.realpath(served) == os.path.realpath(journal):
        raise InsideHandler


class EngineSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where items run when not in workers of the supervisor's own."""

    name: str
    """As the user says it, such as "dask:tcp://127.0.0.1:8786"."""
    places: int | None = None
    """How many batches it may hold at once; None: twice as many as it runs at once."""


class SupervisorArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client tells the supervisor of its own. See `DaemonConfig`."""

    fd: int
    """The supervisor's end of the socket between the two."""
    parent_pid: int
    journal: str
    app: AppSpec
    app_name: str
    workers: int
    durability: str
    grace_s: float
    uses_memos: bool = True
    one_job: bool = False
    engine: EngineSpec | None = None


class WorkerArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a supervisor tells its worker, or its engine process."""

    fds: tuple[int, int, int]
    """The pipe to read, the pipe to write, the slot."""
    parent_pid: int
    app: AppSpec
    journal: str
    engine: EngineSpec | None = None
    """It is an engine process, and hands what it gets on to this engine."""
    json_log: bool = False
    """What handlers print becomes lines of the log, see `worker.prints`."""
    waits: bool = False
    """It imports the app when a byte comes over the pipe, before the first frame."""


Arguments = TypeVar("Arguments", SupervisorArguments, WorkerArguments)

_FILE = "fd:"
"""Before the descriptor of a file that holds the arguments."""
_NO_WARNING = ["-W", "ignore:The global interpreter lock (GIL) has been enabled to load:RuntimeWarning"]
"""A Python without a GIL says in each process that lxml needs one. Whoever starts us has read it."""


def take_closed_places() -> None:
    """Open /dev/null in the place of each standard file that this process was started without (`2>&-`), or a
    descriptor of ours would have its number, and be another one in who is started with it.
    """
    for place in range(3):
        try:
            os.fstat(place)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free: that place


def spawn(
    module: str, arguments: SupervisorArguments | WorkerArguments, fds: Sequence[int]
) -> "subprocess.Popen[bytes]":
    """Run a module with these arguments and descriptors, and with our own folder first of PYTHONPATH, however
    we were found. What it prints goes to stderr: stdout is the results'.
    """
    if getattr(sys, "frozen", False) or not sys.executable:
        raise UnsupportedPlatform(
            "workers are started with a Python of their own, and this program has none: it is frozen, as by "
            "PyInstaller, or Python is embedded in it"
        )
    import subprocess  # 10 ms, which a worker does not need: it only takes its arguments

    environment = dict(os.environ)
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([_PACKAGE_PARENT, *([inherited] if inherited else [])])
    # ASCII: a folder may have a name that is not UTF-8.
    also = {"pythonpath": inherited, "version": __version__}
    argument = json.dumps({**msgspec.to_builtins(arguments), **also})
    # -P: else a file of the current folder would be imported in place of Python's own. What the app needs
    # of it comes with the app's own `sys_path`.
    options = ["-P", *(_NO_WARNING if "t" in sys.abiflags else [])]
    is_silent = sys.__stderr__ is None  # we were started without, and file 2 may be any
    with contextlib.ExitStack() as cleanup:
        if arguments.app.pickle is not None:  # Linux takes 128 KiB as an argument, and shows it to everybody
            file_fd = memory_file("durable_bus arguments", argument.encode())
            cleanup.callback(os.close, file_fd)
            fds = [*fds, file_fd]
            argument = f"{_FILE}{file_fd}"
        return subprocess.Popen(
            [sys.executable, *options, "-m", module, argument],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if is_silent else 2,
            stderr=subprocess.DEVNULL if is_silent else None,
            env=environment,
        )


def arguments_of(argument: str, kind: type[Arguments]) -> Arguments:
    """In such a process: its arguments. PYTHONPATH is the user's again, for what a handler starts.

    Ends the process when who has started it is of another version: that is in its memory, and we come from a
    file that was replaced since. What they would say to each other need not be the same.
    """
    if argument.startswith(_FILE):
        file_fd = int(argument.removeprefix(_FILE))
        argument = read_memory_file(file_fd).decode()
        os.close(file_fd)
    arguments = json.loads(argument)
    inherited, version = arguments.pop("pythonpath"), arguments.pop("version", "before 0.1.0")
    if version != __version__:
        sys.exit(
            f"durable_bus: {__version__} was installed while a program with {version} runs: restart that one"
        )
    if inherited is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = inherited
    return msgspec.convert(arguments, kind)
