"""Clients of the supervisor: the one it was started for, over an inherited socketpair, or any number over a
Unix socket.

The socket is private from birth (0600), its folder's owner is checked by the kernel at bind, and each peer's
uid by us. Nobody here ever waits for a client: what cannot be sent now waits in memory up to a limit, and a
client over it is cut off; it reconnects and asks again, as every request may be repeated.
"""

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from durable_bus.channel import FRAME_BYTES_MAX, FrameReader, Outgoing, encode
from durable_bus.errors import DurableBusError, JournalUnreachable, LimitExceeded, one_line
from durable_bus.ports import ClientClosed, ClientSpoke
from durable_bus.reactor import SelectorReactor

__all__ = ["CLIENTS_MAX", "SocketConnections", "bind_socket", "connect_socket", "socket_path"]

CLIENTS_MAX = 64
UNSENT_BYTES_MAX = 64 * 1024 * 1024
READ_BYTES_MAX = 2 * 1024 * 1024
FRAME_TIMEOUT_S = 30.0
"""How long a frame may take to arrive once it has begun, and a new client to say hello."""
_READ_BYTES = 256 * 1024


def socket_path(journal: Path) -> Path:
    """Named after the journal's real path, so that every name of one journal leads to one daemon."""
    return Path(f"{os.path.realpath(journal)}.sock")


def _reachable(path: Path, folder_fd: int) -> str:
    """A name for the socket that is short enough: the kernel takes 107 bytes."""
    return f"/proc/self/fd/{folder_fd}/{path.name}" if len(os.fsencode(str(path))) > 107 else str(path)


def bind_socket(path: Path) -> socket.socket:
    """A listening socket at `path`; only who holds the journal's lock may call this, as it replaces a stale
    one.

    Raises JournalUnreachable when something that is no socket is in the way, or the folder cannot be written.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    folder_fd = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        os.fchmod(listener.fileno(), 0o600)  # before bind: the socket is private from birth
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise JournalUnreachable(f"{path} is in the way of the daemon's socket and is not a socket")
            os.unlink(path)
        listener.bind(_reachable(path, folder_fd))
        listener.listen(CLIENTS_MAX)
    except OSError as error:
        listener.close()
        raise JournalUnreachable(f"cannot listen at {path}: {error.strerror}") from error
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(folder_fd)
    return listener


def connect_socket(path: Path) -> socket.socket:
    """Connect to the daemon's socket. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    folder_fd = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        connection.connect(_reachable(path, folder_fd))
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(folder_fd)
    return connection


class _Client:
    def __init__(self, connection: socket.socket, *, is_parent: bool, now_s: float) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.is_parent = is_parent
        self.reader = FrameReader(FRAME_BYTES_MAX)
        self.outgoing = Outgoing(connection.fileno())
        self.closing = False
        self.greeted = is_parent
        self.waiting_since_s: float | None = None if is_parent else now_s


class SocketConnections:
    """The real `ports.Connections`. `now_s` reads the monotonic clock, for the limits on time."""

    def __init__(self, reactor: SelectorReactor, now_s: Callable[[], float]) -> None:
        self._reactor = reactor
        self._now_s = now_s
        self._clients: dict[int, _Client] = {}
        self._events: list[ClientSpoke | ClientClosed] = []
        self._next_id = 1
        self._budget_bytes = READ_BYTES_MAX
        self._listener: socket.socket | None = None

    def __len__(self) -> int:
        return len(self._clients)

    def add_parent(self, connection: socket.socket) -> None:
        """The client that this process was started for: when it goes, the supervisor ends."""
        self._add(connection, is_parent=True)

    def listen(self, listener: socket.socket) -> None:
        self._listener = listener
        self._reactor.watch(listener.fileno(), lambda mask: self._accept())

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it gave up meanwhile
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _pid, uid, _gid = struct.unpack("3i", credentials)
        if uid not in (os.geteuid(), 0):
            self._refuse(connection, f"this daemon belongs to another user (uid {os.geteuid()})")
        elif len(self._clients) >= CLIENTS_MAX:
            self._refuse(connection, f"the daemon has {CLIENTS_MAX} clients already")
        else:
            self._add(connection, is_parent=False)

    @staticmethod
    def _refuse(connection: socket.socket, message: str) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.send(
                encode({"k": "error", "request": None, "type": "LimitExceeded", "message": message})
            )
        connection.close()

    def _add(self, connection: socket.socket, *, is_parent: bool) -> None:
        connection_id = self._next_id
        self._next_id += 1
        self._clients[connection_id] = _Client(connection, is_parent=is_parent, now_s=self._now_s())
        self._watch(connection_id)

    def _watch(self, connection_id: int) -> None:
        client = self._clients[connection_id]
        self._reactor.watch(
            client.connection.fileno(),
            lambda mask: self._ready(connection_id),
            read=not client.closing,
            write=client.outgoing.pending_bytes > 0,
        )

    def _ready(self, connection_id: int) -> None:
        client = self._clients.get(connection_id)
        if client is not None and self._flush(connection_id, client) and not client.closing:
            self._read(connection_id, client)

    def _read(self, connection_id: int, client: _Client) -> None:
        while self._budget_bytes > 0:
            try:
                data = client.connection.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._drop(connection_id)
                return
            self._budget_bytes -= len(data)
            try:
                for frame in client.reader.feed(data):
                    client.greeted = True
                    self._events.append(ClientSpoke(connection_id, frame))
            except (LimitExceeded, ValueError) as error:
                self._cut_off(connection_id, error)
                return
            waiting = client.reader.pending_bytes > 0 or not client.greeted
            if not waiting:
                client.waiting_since_s = None
            elif client.waiting_since_s is None:
                client.waiting_since_s = self._now_s()

    def _cut_off(self, connection_id: int, error: Exception) -> None:
        is_ours = isinstance(error, DurableBusError)
        message = str(error) if is_ours else f"not a frame of durable_bus: {one_line(str(error))[:200]}"
        kind = type(error).__name__ if is_ours else "UsageError"
        self.send(connection_id, encode({"k": "error", "request": None, "type": kind, "message": message}))
        self.close(connection_id)

    def _flush(self, connection_id: int, client: _Client) -> bool:
        """Send what can be sent; False when the client is gone by now."""
        try:
            empty = client.outgoing.flush()
        except OSError:
            self._drop(connection_id)
            return False
        if empty and client.closing:
            self._drop(connection_id)
            return False
        self._watch(connection_id)
        return True

    def _drop(self, connection_id: int) -> None:
        client = self._clients.pop(connection_id)
        self._reactor.forget(client.connection.fileno())
        client.connection.close()
        self._events.append(ClientClosed(connection_id, client.is_parent))

    def send(self, connection_id: int, data: bytes) -> None:
        client = self._clients.get(connection_id)
        if client is None:
            return
        client.outgoing.append(data)
        if client.outgoing.pending_bytes > UNSENT_BYTES_MAX:
            self._drop(connection_id)
        else:
            self._flush(connection_id, client)

    def close(self, connection_id: int) -> None:
        client = self._clients.get(connection_id)
        if client is not None:
            client.closing = True
            self._flush(connection_id, client)

    def take_events(self) -> list[ClientSpoke | ClientClosed]:
        self._drop_silent()
        events, self._events = self._events, []
        self._budget_bytes = READ_BYTES_MAX
        return events

    def _drop_silent(self) -> None:
        """A half-open connection or half a frame must not hold a place for ever."""
        oldest_s = self._now_s() - FRAME_TIMEOUT_S
        late = [
            i
            for i, c in self._clients.items()
            if c.waiting_since_s is not None and c.waiting_since_s < oldest_s
        ]
        for connection_id in late:
            self._drop(connection_id)

    def close_all(self) -> None:
        for connection_id in list(self._clients):
            self.close(connection_id)
        if self._listener is not None:
            self._reactor.forget(self._listener.fileno())
            self._listener.close()
