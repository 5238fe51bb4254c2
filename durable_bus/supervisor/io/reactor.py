"""The one place where the supervisor waits: for pipes, sockets, exits and signals, or until a timer is
due.
"""

import os
import selectors
import signal
from collections.abc import Callable, Mapping

__all__ = ["SelectorReactor"]


class SelectorReactor:
    """Calls back whoever registered a descriptor that has become ready."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(
        self, fd: int, callback: Callable[[int], object], *, write: bool = False, read: bool = True
    ) -> None:
        """Call `callback(mask)` when `fd` is ready; replaces what was watched on it before."""
        events = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        if not events:
            self.forget(fd)
        elif fd in self._selector.get_map():
            self._selector.modify(fd, events, callback)
        else:
            self._selector.register(fd, events, callback)

    def forget(self, fd: int) -> None:
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def poll(self, timeout_s: float | None) -> None:
        watched = self._selector.get_map()
        for key, mask in self._selector.select(timeout_s):
            # What became ready together may end together: a worker's exit closes the pipe that is next in the
            # list. So only what is still watched is called, and for what it is watched for now.
            now = watched.get(key.fd)
            if now is not None and mask & now.events:
                now.data(mask & now.events)

    def note_signals(self, names: Mapping[signal.Signals, str], noted: list[str]) -> None:
        """Install handlers that only append a name to `noted` and wake `poll`; the loop acts."""
        read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        self.watch(read_fd, lambda mask: os.read(read_fd, 4096))
        for number in names:
            signal.signal(number, lambda got, _frame: noted.append(names[signal.Signals(got)]))
