"""Commands that do not wait for Python to start: a process that has imported the package forks for each.

A command needs 0.1 to 0.3 s of a core to import what it needs, and 10 ms for what most tests ask of it. Each
is a process all the same, with its own exit code, files and folder.

    python command_forks.py FD    serves requests that come through this socket, until its other end is closed
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import durable_bus
from durable_bus.cli import main as run_command

NOT_IMPORTED = ("durable_bus.__main__", "durable_bus.engines", "durable_bus.examples", "durable_bus.worker")
"""What no command needs, or few: what is imported makes each fork dearer, 0.1 ms a megabyte."""

_lock = threading.Lock()
_connection: socket.socket | None = None


def run(
    arguments: list[str], cwd: Path, environment: dict[str, str], stdin: bytes, patience_s: float
) -> tuple[int, bytes, bytes]:
    """Exit code (negative: the signal that ended it), stdout, stderr. Raises TimeoutExpired."""
    given = os.memfd_create("stdin")
    ours, theirs = zip(*(os.pipe() for _ in range(3)), strict=True)  # stdout, stderr, and how it ended
    try:
        os.write(given, stdin)
        os.lseek(given, 0, os.SEEK_SET)
        request = {"arguments": arguments, "cwd": str(cwd), "environment": environment}
        try:
            socket.send_fds(_server(environment), [json.dumps(request).encode()], [given, *theirs])
        finally:
            for fd in (given, *theirs):
                os.close(fd)
        out, err, told = _until_closed(ours, time.monotonic() + patience_s)
    finally:
        for fd in ours:
            os.close(fd)
    pid, *code = told.split()
    if not code:
        os.kill(int(pid), signal.SIGKILL)
        raise subprocess.TimeoutExpired(arguments, patience_s, out, err)
    return int(code[0]), out, err


def _until_closed(fds: tuple[int, ...], deadline_s: float) -> list[bytes]:
    """All that comes through these pipes until nobody holds their other ends, or the time is over."""
    came = {fd: b"" for fd in fds}
    open_ones = set(fds)
    while open_ones:
        ready, _, _ = select.select(open_ones, [], [], max(0, deadline_s - time.monotonic()))
        if not ready:
            break
        for fd in ready:
            data = os.read(fd, 1 << 20)
            came[fd] += data
            if not data:
                open_ones.remove(fd)
    return list(came.values())


def _server(environment: dict[str, str]) -> socket.socket:
    """The socket to the process that forks, which lives as long as this one."""
    global _connection
    with _lock:
        if _connection is None:
            _connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            theirs.close()
            atexit.register(process.wait)
            atexit.register(_connection.close)  # before that
        return _connection


# The process that forks


def _import_all() -> None:
    for module in pkgutil.walk_packages(durable_bus.__path__, "durable_bus."):
        if not module.name.startswith(NOT_IMPORTED):
            importlib.import_module(module.name)
    sys.modules["pandas"] = None  # type: ignore[assignment]  # which sqlite_utils would import, 40 MB
    importlib.import_module("sqlite_utils")
    del sys.modules["pandas"]
    gc.freeze()


def _serve(connection: socket.socket) -> dict[str, Any] | None:
    """Returns a request in each child that is to fulfil it, and None in the parent, at its end."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write_fd)
    ends: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([connection, read_fd], [], [])
        if read_fd in ready:
            os.read(read_fd, 4096)
            while ends and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                end = ends.pop(ended[0])
                os.write(end, f"{os.waitstatus_to_exitcode(ended[1])}\n".encode())
                os.close(end)
        if connection in ready:
            data, fds, _, _ = socket.recv_fds(connection, 1 << 20, 4)
            if not data:
                return None
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for fd in (read_fd, write_fd, *ends.values()):
                    os.close(fd)
                for number, fd in enumerate(fds):
                    if number < 3:
                        os.dup2(fd, number)
                    os.close(fd)
                connection.close()
                request: dict[str, Any] = json.loads(data)
                return request
            os.write(fds[3], f"{pid}\n".encode())
            for fd in fds[:3]:
                os.close(fd)
            ends[pid] = fds[3]


def _end(code: int) -> NoReturn:
    """As Python ends, but for taking all modules to pieces: it would copy all of the memory that this process
    shares with the one that forks, which takes 60 ms. What a command has left open by itself is told, too.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except (OSError, ValueError):
        sys.exit(code)  # Python says so in its way
    os._exit(code)


def main() -> NoReturn:
    _import_all()
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        sys.exit()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["durable-bus", *request["arguments"]]
    sys.path[0] = os.getcwd()  # as `python -m` has it
    try:
        code = run_command()
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        code = end.code
    _end(code or 0)


if __name__ == "__main__":
    main()
