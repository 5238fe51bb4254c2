"""The process that forks for `forks.py`: it has imported the package, and does nothing else.

    python fork_server.py FD few|all ...     serves requests that come by this socket, until nobody holds it

Who forks is not who has asked. The new process forks once more and ends: so its child becomes one of who has
asked, who is a "subreaper" meanwhile. `getppid`, `waitpid` and the signal at a parent's death are as ever. A
supervisor or a command asks a server of its own, which was forked before it had opened anything: nobody may
go on in a child with what SQLite has opened.
"""

import atexit
import ctypes
import fcntl
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

_usual_path = list(sys.path)
sys.path.insert(0, os.path.dirname(__file__))

import forks  # noqa: E402

FEW = ("app", "payloads", "wire", "journal", "client", "supervisor", "worker")
"""What supervisors, workers and clients need. What is imported makes each fork dearer, 0.1 ms a megabyte."""
NOT_FEW = ("durable_bus.journal.admin",)
NOT_ALL = ("durable_bus.engines", "durable_bus.examples")

FAR_FD = 900
"""Descriptors of ours are beyond it, out of the way."""


def _import(kind: str) -> None:
    import durable_bus

    (package,) = durable_bus.__path__
    if kind == "few":
        for name in FEW:
            importlib.import_module(f"durable_bus.{name}")
            _import_below(f"{package}/{name}", f"durable_bus.{name}.", NOT_FEW)
    else:
        _import_below(package, "durable_bus.", NOT_ALL)
        sys.modules["pandas"] = None  # type: ignore[assignment]  # which sqlite_utils would import, 40 MB
        importlib.import_module("sqlite_utils")
        del sys.modules["pandas"]
    gc.collect()
    gc.freeze()


def _import_below(folder: str, prefix: str, but: tuple[str, ...]) -> None:
    for module in pkgutil.walk_packages([folder], prefix):
        if not module.name.startswith(but) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _serve(connection: socket.socket) -> dict[str, Any]:
    """Returns a request in each process that is to fulfil it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        data, fds, _, _ = socket.recv_fds(connection, 1 << 20, 32)
        if not data:
            os._exit(0)
        if pid := os.fork():
            os.waitpid(pid, 0)
            for fd in fds:
                os.close(fd)
            continue
        between = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == between:
            time.sleep(0.001)  # a thread that waits would be in the way of the forks below
        request: dict[str, Any] = json.loads(data)
        request["program"] = forks.Program(*request["program"])
        connection.close()
        (tell,) = _only(dict(zip(request["fds"], fds[1:], strict=True)), fds[0])
        _become(request)
        forks_too = request["program"].starts_others and request["forks"]
        if forks_too:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            if os.fork() == 0:
                os.close(tell)
                ours.close()
                null = os.open(os.devnull, os.O_RDWR)
                (fd,) = _only({0: null, 1: null, 2: null}, theirs.detach())
                connection = socket.socket(fileno=fd)
                _call_it([forks.SERVER])
                continue
            theirs.close()
            forks.serve_from(_far(ours), request["environment"])
        forks.started_for_real(not forks_too)
        try:
            os.write(tell, str(os.getpid()).encode())
        except BrokenPipeError:
            os._exit(1)  # who has asked is dead
        os.close(tell)
        return request


def _only(wanted: dict[int, int], *others: int) -> list[int]:
    """Close all descriptors but these: those wanted under a number, and others, whose numbers are told."""
    far = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, FAR_FD) for number, fd in wanted.items()}
    far_others = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FAR_FD) for fd in others]
    os.closerange(0, FAR_FD)
    for number, fd in far.items():
        os.dup2(fd, number)
        os.close(fd)
    return far_others


def _far(connection: socket.socket) -> socket.socket:
    """The same by a number that nobody else comes to."""
    with connection:
        return socket.socket(fileno=fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD_CLOEXEC, FAR_FD))


def _become(request: dict[str, Any]) -> None:
    """All that a program finds when it begins, but for its descriptors."""
    if (group := request["group"]) not in (None, -1):
        os.setpgid(0, group)
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number in forks.IGNORABLE:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else usual)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["mask"])
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        _open_stream(fd, name)
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.orig_argv = request["args"]
    _call_it(request["args"])
    program: forks.Program = request["program"]
    inherited = os.environ["PYTHONPATH"].split(os.pathsep)
    sys.path[:] = dict.fromkeys([*map(os.path.abspath, inherited), *_usual_path])
    if program.has_own_folder:
        folder = os.path.dirname(os.path.realpath(program.what)) if program.kind == "file" else os.getcwd()
        sys.path.insert(0, folder)


def _open_stream(fd: int, name: str) -> None:
    """One of Python's own streams, as Python makes it. It remembers whether its file can seek."""
    old = getattr(sys, name)
    unbuffered = bool(old.write_through) and fd > 0
    raw = io.FileIO(fd, "wb" if fd else "rb", closefd=False)
    binary: Any = raw if unbuffered else io.BufferedWriter(raw) if fd else io.BufferedReader(raw)
    raw.name = f"<{name}>"
    stream = io.TextIOWrapper(
        binary,
        encoding=old.encoding,
        errors=old.errors,
        line_buffering=fd == 2 or os.isatty(fd),
        write_through=unbuffered,
    )
    stream.mode = "w" if fd else "r"  # type: ignore[misc]
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _call_it(args: list[str]) -> None:
    """What others see of a command line in /proc."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    line = b"".join(os.fsencode(arg) + b"\0" for arg in args)[: end - start - 1]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, line, len(line))


def _run(program: forks.Program) -> None:
    """As Python runs it."""
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    names: dict[str, Any] = main.__dict__
    if program.kind == "module":
        sys.argv = ["-m", *program.arguments]
        runpy.run_module(program.what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [program.what, *program.arguments]
        names["__file__"] = os.path.abspath(program.what)
        with io.open_code(names["__file__"]) as file:
            code = compile(file.read(), names["__file__"], "exec")
        exec(code, names)


def _end(code: int) -> NoReturn:
    """As Python ends, but for taking all modules to pieces: it would copy all of the memory that this process
    shares with the one that forks, which takes 60 ms. What a program has left open by itself is told, too.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except (OSError, ValueError):
        forks.let_go()
        sys.exit(code)  # Python says so in its way
    os._exit(code)


def main() -> NoReturn:
    fd, kind = int(sys.argv[1]), sys.argv[2]
    sys.path.insert(0, str(forks.ROOT))
    _import(kind)
    forks.install()
    request = _serve(socket.socket(fileno=fd))
    code: Any = 0
    try:
        _run(request["program"])
    except SystemExit as end:
        code = end.code
        if not isinstance(code, int | None):
            sys.stderr.write(f"{code}\n")
            code = 1
    except KeyboardInterrupt:
        forks.let_go()
        raise  # Python says so, and ends by that signal
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook(type(error), error, trace)
        code = 1
    _end((code or 0) & 0xFF)


if __name__ == "__main__":
    main()
