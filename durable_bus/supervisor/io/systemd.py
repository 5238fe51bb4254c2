"""What systemd is told when it has started the daemon and asks to be told (sd_notify(3)): that it serves,
that its turns go round, that it stops, and how many buffers are open.

A reload is not told of. The daemon serves all the while, and new code that cannot be imported would leave
`systemctl reload` waiting.
"""

import contextlib
import os
import socket
from collections.abc import MutableMapping

__all__ = ["Systemd"]

_STATUS_EVERY_S = 1.0
_READY_WAIT_S = 5.0


class Systemd:
    """The real `ports.ServiceManager`."""

    def __init__(self, address: str, watchdog_s: float | None) -> None:
        """`watchdog_s`: a daemon that says nothing for so long is taken for hung; None: nobody looks."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._beat_every_s = None if watchdog_s is None else watchdog_s / 2
        self._beat_s = 0.0
        """When the next sign of life is due, monotonic."""
        self._open_buffers: int | None = None
        """As it was told last."""
        self._status_s = 0.0
        """When it may be told again, monotonic."""
        self._status_is_old = False

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> "Systemd | None":
        """None when nobody asks. The variables are taken away: what handlers start is not this daemon."""
        address = environment.pop("NOTIFY_SOCKET", "")
        interval_us, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return None
        is_watched = interval_us.isdecimal() and int(interval_us) > 0 and pid in ("", str(os.getpid()))
        return cls(address, int(interval_us) / 1e6 if is_watched else None)

    @property
    def due_s(self) -> float | None:
        due_s = [self._beat_s] if self._beat_every_s is not None else []
        if self._status_is_old:
            due_s.append(self._status_s)
        return min(due_s, default=None)

    def ready(self) -> None:
        """Clients are served from now on. This one must arrive, or the start counts as failed."""
        self._socket.settimeout(_READY_WAIT_S)
        self._tell("READY=1")
        self._socket.setblocking(False)

    def turned(self, now_s: float, open_buffers: int) -> None:
        if self._beat_every_s is not None and now_s >= self._beat_s:
            arrived = self._tell("WATCHDOG=1")
            self._beat_s = now_s + (self._beat_every_s if arrived else self._beat_every_s / 5)
        self._status_is_old = open_buffers != self._open_buffers
        if self._status_is_old and now_s >= self._status_s:
            self._status_s = now_s + _STATUS_EVERY_S
            if self._tell(f"STATUS={open_buffers} buffer{'' if open_buffers == 1 else 's'} open"):
                self._open_buffers, self._status_is_old = open_buffers, False

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def _tell(self, state: str) -> bool:
        """Whether it has arrived. When nobody reads, it is dropped: the daemon serves all the same."""
        with contextlib.suppress(OSError):
            self._socket.sendto(state.encode(), self._address)
            return True
        return False

    def close(self) -> None:
        self._socket.close()
