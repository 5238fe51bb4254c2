"""A daemon's Unix socket as a file: where it is, making it, connecting to it, and who is at the other end.

It is private from birth (0600); its folder's owner is checked by the daemon (`supervisor.process`), and each
peer's uid by both sides.
"""

import contextlib
import errno
import os
import socket
import stat
import struct
import time
from pathlib import Path

from durable_bus.errors import JournalUnreachable, said
from durable_bus.journal.lock import WAIT_S, socket_in_lock

__all__ = [
    "bind_socket",
    "connect_daemon",
    "connect_socket",
    "journal_file",
    "peer_of",
    "served_socket_path",
    "socket_path",
    "unlink_socket",
]

_BACKLOG = 128
_SOCKET_NAME_BYTES_MAX = 107
_CONNECT_AGAIN_S = 0.02
_O_PATH = getattr(os, "O_PATH", 0o10000000)
"""open(2). A Python that was built with older headers does not name it (`process_end`)."""


def socket_path(journal: Path) -> Path:
    """Named after the journal's real path, so that every name of one journal leads to one daemon."""
    return Path(f"{os.path.realpath(journal)}.sock")


def served_socket_path(journal: Path) -> Path:
    """Where the journal's daemon listens, or would: `serve --socket` is noted in the lock's file."""
    noted = socket_in_lock(journal)
    return socket_path(journal) if noted is None else Path(noted)


def journal_file(journal: Path) -> list[int]:
    """Which file a journal is: its device and inode, by which a daemon knows that a client means its journal.
    Zeros when there is none. Nothing is opened: closing it would drop SQLite's locks (`journal.connection`).
    """
    try:
        facts = os.stat(journal)
    except OSError:
        return [0, 0]
    return [facts.st_dev, facts.st_ino]


def bind_socket(path: Path, wait_s: float = WAIT_S) -> socket.socket:
    """A listening socket at `path`, for who holds the journal's lock: a stale one is replaced.

    Raises JournalUnreachable when another journal's daemon still listens there after `wait_s` seconds, when
    something that is no socket is in the way, or when the folder cannot be written.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(listener.fileno(), 0o600)  # before bind: the socket is private from birth
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise JournalUnreachable(f"{path} is in the way of the daemon's socket and is not a socket")
            _wait_until_stale(path, wait_s)
            os.unlink(path)
        _bind(listener, path)
        listener.listen(_BACKLOG)
    except BaseException as error:
        listener.close()
        if isinstance(error, OSError):
            why = f"{error.strerror or said(error)}; serve --socket takes another place"
            raise JournalUnreachable(f"cannot listen at {path}: {why}") from error
        raise
    return listener


def _wait_until_stale(path: Path, wait_s: float) -> None:
    """Until nobody listens at a socket any more: its daemon may be about to end, or have ended and left the
    socket to a child between fork and exec for a moment. Raises JournalUnreachable, or FileNotFoundError.
    """
    deadline_s = time.monotonic() + wait_s
    while (pid := _listener_pid(path)) is not None:
        if time.monotonic() >= deadline_s:
            who = f"process {pid}" if pid else "another process"
            raise JournalUnreachable(f"cannot listen at {path}: {who} does, and serves another journal")
        time.sleep(_CONNECT_AGAIN_S)


def _listener_pid(path: Path) -> int | None:
    """Who listens at a socket, 0 when it has no place for us to ask; None: nobody does."""
    try:
        with contextlib.closing(connect_socket(path)) as connection:
            return peer_of(connection)[0]
    except BlockingIOError:
        return 0
    except ConnectionRefusedError:
        return None


def unlink_socket(path: Path, bound: os.stat_result) -> None:
    """Take away a daemon's own socket, `bound` when it was made, and no other that is at its place now."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), bound):
            os.unlink(path)


def _bind(listener: socket.socket, path: Path) -> None:
    """A path over the kernel's 107 bytes goes by its folder's descriptor, a longer name by a short one."""
    if len(os.fsencode(path)) <= _SOCKET_NAME_BYTES_MAX:
        listener.bind(os.fsencode(path))
        return
    folder_fd = os.open(path.parent, _O_PATH | os.O_CLOEXEC)
    try:
        short = f".{os.urandom(8).hex()}.sock"
        listener.bind(f"/proc/self/fd/{folder_fd}/{short}")
        os.rename(short, path.name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    finally:
        os.close(folder_fd)


def connect_daemon(journal: Path, timeout_s: float = 0.0) -> socket.socket:
    """Connect to the daemon that serves a journal. Raises OSError, as `connect_socket` does."""
    connection = connect_socket(served_socket_path(journal), timeout_s)
    _, uid = peer_of(connection)
    # In a folder like /tmp anybody could have put a socket there: only the journal's owner may serve it.
    if uid not in (0, os.geteuid()) and uid != os.stat(os.path.realpath(journal)).st_uid:
        connection.close()
        raise PermissionError(errno.EACCES, f"the socket belongs to another user (uid {uid})")
    return connection


def connect_socket(path: Path, timeout_s: float = 0.0) -> socket.socket:
    """Connect to a daemon, which may accept nobody for `timeout_s` (stopped, busy). Raises OSError."""
    connection = socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    )
    deadline_s = time.monotonic() + timeout_s
    try:
        while True:
            try:
                _connect(connection, path)
                connection.setblocking(True)
                return connection
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    raise
                time.sleep(_CONNECT_AGAIN_S)
    except BaseException:
        connection.close()
        raise


def _connect(connection: socket.socket, path: Path) -> None:
    socket_fd = os.open(path, _O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(socket_fd).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), str(path))
        connection.connect(f"/proc/self/fd/{socket_fd}")
    finally:
        os.close(socket_fd)


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Pid and uid of the process that listens, or connected, at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _gid = struct.unpack("3i", credentials)
    return pid, uid
