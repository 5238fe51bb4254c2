"""Accepting clients at the daemon's Unix socket."""

import contextlib
import errno
import os
import socket
from collections.abc import Callable

from durable_bus.errors import UsageError
from durable_bus.supervisor.io.log import SparingLog
from durable_bus.supervisor.io.reactor import SelectorReactor
from durable_bus.wire.decoding import error_frame
from durable_bus.wire.framing import encode
from durable_bus.wire.socket_file import peer_of

__all__ = ["Acceptor"]

_ACCEPTED_MAX = 16
_ACCEPT_AGAIN_S = 1.0


class Acceptor:
    """Hands each new connection of our own user, or of root, to `accepted`."""

    def __init__(
        self,
        listener: socket.socket,
        reactor: SelectorReactor,
        now_s: Callable[[], float],
        log: SparingLog,
        accepted: Callable[[socket.socket], None],
    ) -> None:
        self._listener = listener
        self._reactor = reactor
        self._now_s = now_s
        self._log = log
        self._accepted = accepted
        self._again_s: float | None = None
        """When to go on; None: we do accept."""
        self._listen()

    def _listen(self) -> None:
        self._reactor.watch(self._listener.fileno(), lambda mask: self._accept())

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_MAX):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._rest(error)
                return  # else it gave up meanwhile
            _, uid = peer_of(connection)
            if uid in (os.geteuid(), 0):
                self._accepted(connection)
            else:
                _refuse(connection, f"this daemon belongs to another user (uid {os.geteuid()})")
                self._log("client refused", uid=uid)

    def _rest(self, error: OSError) -> None:
        """No descriptors left: accept nobody for a moment, or the loop would do nothing but try."""
        self._log("cannot accept clients", reason=error.strerror)
        self._reactor.forget(self._listener.fileno())
        self._again_s = self._now_s() + _ACCEPT_AGAIN_S

    def attend(self, *, has_room: bool = False) -> None:
        """Go on when it is time, or when a connection was closed."""
        if self._again_s is not None and (has_room or self._now_s() >= self._again_s):
            self._again_s = None
            self._listen()

    def close(self) -> None:
        self._reactor.forget(self._listener.fileno())
        self._listener.close()


def _refuse(connection: socket.socket, message: str) -> None:
    connection.setblocking(False)
    with contextlib.suppress(OSError):
        connection.send(encode(error_frame(UsageError(message))))
    connection.close()
