"""Programs of tests that do not wait for Python to start: they are forked.

To start and to import costs a supervisor 80 ms of a core, a worker 57, a command 100 to 300; a fork costs 3.
Each is a process all the same, with its own folder, variables, descriptors, signals, modules of the user's,
and its own end, and a child of who has started it.

`install` puts this behind `subprocess.Popen`, for what `_program_of` names. So what a test starts is forked,
and what that starts, too. Nothing is forked for a test that is marked `real_start`: that is for those which
are about starts, imports, variables that Python reads, memory, descriptors, limits of a process. What is
forked differs in that: it has more modules than it would import, all have one hash seed, and its limits are
those of the tests at their beginning. Who forks is `fork_server.py`.
"""

import array
import atexit
import contextlib
import ctypes
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["SERVER", "Program", "in_this_thread", "install", "let_go", "serve_from", "started_for_real"]

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
FORK_SERVER = TESTS / "fork_server.py"

STARTING = ("run", "serve", "demo", "rerun", "finish")
"""Commands that start supervisors or workers."""

READ_AT_START = ("PYTHON", "LC_", "LANG", "TZ", "LD_", "MALLOC_", "GLIBC_", "OTEL_")
"""Variables that Python, or what is imported, reads only once. Who has others gets a Python of its own."""

READ_LATER = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
"""What a fork does as they say."""

COMMAND_LINE_BYTES = 4096
"""How much of its command line others see of a fork."""
SERVER = "a process that forks, for the tests"
"""The command line of one that forks for a fork."""
PR_SET_CHILD_SUBREAPER = 36
IGNORABLE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

_lock = threading.Lock()
_servers: "dict[str, Server]" = {}
_is_off = False
_here = threading.local()


class Program(NamedTuple):
    """What a Python is to run."""

    kind: str
    """`module`, as after `-m`, or `file`."""
    what: str
    arguments: list[str]
    has_own_folder: bool
    """Not with -P."""

    @property
    def starts_others(self) -> bool:
        if self.what == "durable_bus":
            return self.arguments[:1] != [] and self.arguments[0] in STARTING
        return self.what != "durable_bus.worker"


class Server(NamedTuple):
    """A process that forks, seen from who asks it."""

    connection: socket.socket
    variables: dict[str, str]
    """Those of `READ_AT_START`."""


# Who asks


def install() -> None:
    """From now on, programs that this process starts are forked, where that makes no difference."""
    original: Any = subprocess.Popen._execute_child  # type: ignore[attr-defined]
    names = list(inspect.signature(original).parameters)[1:]

    def execute_child(popen: Any, *given: Any) -> None:
        options = dict(zip(names, given, strict=True))
        if not _forked(popen, options):
            original(popen, *given)

    subprocess.Popen._execute_child = execute_child  # type: ignore[attr-defined]


def started_for_real(yes: bool) -> None:
    """Whether nothing is forked until further notice."""
    global _is_off
    _is_off = yes


@contextlib.contextmanager
def in_this_thread(forks: bool) -> Iterator[None]:
    """Meanwhile what it starts is forked, or not, whatever was said of others, and of what that starts."""
    _here.forks = forks
    try:
        yield
    finally:
        del _here.forks


def serve_from(connection: socket.socket, environment: dict[str, str]) -> None:
    """From now on another process forks for this one."""
    _servers["own"] = Server(connection, _read_at_start(environment))


def let_go() -> None:
    """Of the process that forks for this one, before Python tells what is left open."""
    if server := _servers.pop("own", None):
        server.connection.close()


def _forked(popen: Any, options: dict[str, Any]) -> bool:
    if not getattr(_here, "forks", not _is_off) or not isinstance(options["args"], list | tuple):
        return False
    args = [os.fsdecode(one) for one in options["args"]]
    program = _program_of(args)
    if program is None or not _is_plain(options):
        return False
    environment = dict(os.environ if options["env"] is None else options["env"])
    environment = {os.fsdecode(name): os.fsdecode(value) for name, value in environment.items()}
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    cwd = os.fsdecode(options["cwd"] or os.getcwd())
    if str(ROOT) not in paths or not os.path.isdir(cwd):
        return False
    with _lock:
        server = _server("all" if program.what == "durable_bus" else "few")
        if server is None or server.variables != _read_at_start(environment):
            return False
        request = {
            "args": args,
            "program": program,
            "cwd": cwd,
            "environment": environment,
            "mask": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
            "ignored": [int(number) for number in IGNORABLE if signal.getsignal(number) == signal.SIG_IGN],
            "group": options["process_group"],
            "umask": _umask(),
            "forks": not _is_off,
            "fds": [0, 1, 2, *options["pass_fds"]],
        }
        standard = [options[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        fds = [number if given == -1 else given for number, given in enumerate(standard)]
        pid = _ask(server, request, [*fds, *options["pass_fds"]])
    if pid is None:
        return False
    popen.pid = pid
    popen._child_created = True
    popen._close_pipe_fds(
        *(options[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite"))
    )
    return True


def _is_plain(options: dict[str, Any]) -> bool:
    """Nothing is asked for that only exec does."""
    nothing = ("preexec_fn", "shell", "start_new_session", "gid", "gids", "uid")
    executable = options["executable"]
    return (
        all(options[name] in (None, False, -1) for name in nothing)
        and options["umask"] == -1
        and options["close_fds"]
        and executable in (None, sys.executable)
    )


def _program_of(args: list[str]) -> Program | None:
    """A module of the package or a file that is a test's; None for anything else."""
    executable, *words = args
    if executable != sys.executable:
        return None
    has_own_folder = words[:1] != ["-P"]
    if not has_own_folder:
        words = words[1:]
    match words:
        case ["-m", "durable_bus" | "durable_bus.supervisor" | "durable_bus.worker" as module, *arguments]:
            return Program("module", module, arguments, has_own_folder)
        case [path, *arguments] if path.endswith(".py") and path != str(FORK_SERVER):
            file = Path(path)
            if not file.is_relative_to(ROOT) or file.is_relative_to(TESTS):
                return Program("file", path, arguments, has_own_folder)
    return None


def _read_at_start(environment: dict[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_AT_START) and name not in READ_LATER
    }


def _umask() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("Umask:")[2].split()[0], 8)


def _server(kind: str) -> Server | None:
    """The process that forks for this one. It lives as long as this one."""
    if "own" in _servers:
        return _servers["own"]
    if kind not in _servers:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        padding = "." * COMMAND_LINE_BYTES
        process = subprocess.Popen(
            [sys.executable, "-P", str(FORK_SERVER), str(theirs.fileno()), kind, padding],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()
        atexit.register(process.wait)
        atexit.register(ours.close)  # before that
        _servers[kind] = Server(ours, _read_at_start(environment))
    return _servers[kind]


def _ask(server: Server, request: dict[str, Any], fds: list[int]) -> int | None:
    """The pid of a new child of ours; None when it cannot be told so much, or has no more processes."""
    told, tell = os.pipe2(os.O_CLOEXEC)
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        data = json.dumps(request).encode()
        rights = array.array("i", [tell, *fds]).tobytes()
        server.connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        os.close(tell)
        tell = -1
        pid = os.read(told, 20)
    except OSError:
        return None
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        os.close(told)
        if tell != -1:
            os.close(tell)
    return int(pid) if pid else None
