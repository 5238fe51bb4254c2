"""A condition that Ctrl-C leaves as it should be."""

import threading

__all__ = ["Changes"]


class Changes(threading.Condition):
    """Of a lock that is held again whenever a wait is over, also when that is interrupted just after it has
    let go of the lock. A Condition does not see to that: what holds the lock fails then as it lets go of it,
    with a RuntimeError in place of KeyboardInterrupt.

    Hold the lock itself (`with lock`), not this: before the one line of `Condition.__exit__`, which is
    Python, an interrupt would leave it held for ever.
    """

    def __init__(self, lock: "threading.RLock") -> None:
        super().__init__(lock)

    def wait(self, timeout: float | None = None) -> bool:
        try:
            return super().wait(timeout)
        except BaseException:
            if not self._is_owned():  # type: ignore[attr-defined]
                self.acquire()
            raise
