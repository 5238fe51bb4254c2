"""What an action has come to: said once, on the page that the browser is sent to."""

import secrets
import threading
from typing import Final, NamedTuple

__all__ = ["NOTICES_MAX", "Notice", "Notices"]

NOTICES_MAX: Final = 100


class Notice(NamedTuple):
    """`failed`: it was refused, or went wrong; the text says why."""

    text: str
    failed: bool


class Notices:
    """Those that nobody has seen yet, the newest NOTICES_MAX. Threads may share it."""

    def __init__(self) -> None:
        self._notices: dict[str, Notice] = {}
        self._lock = threading.Lock()

    def put(self, text: str, *, failed: bool = False) -> str:
        """Its id, which cannot be guessed."""
        notice_id = secrets.token_urlsafe(12)
        with self._lock:
            self._notices[notice_id] = Notice(text, failed)
            while len(self._notices) > NOTICES_MAX:
                del self._notices[next(iter(self._notices))]
        return notice_id

    def take(self, notice_id: str) -> Notice | None:
        """None: it was taken before, or was never there."""
        with self._lock:
            return self._notices.pop(notice_id, None)
