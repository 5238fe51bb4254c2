"""A stream's producer in raw frames: a test says each of them itself."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from services import Raw, frame_of
from support import Facts

Header = dict[str, Any]


class Producer:
    """One request that starts a stream, over one connection after another."""

    def __init__(self, raw: Raw, buffer_id: str, *, request: str = "r", **header: Any) -> None:
        self.raw, self.request = raw, request
        self.ended: list[str] = []
        """Buffers that a connection of ours was told the end of."""
        self.next_chunk = self.received = 0
        self._start = {
            "buffer_id": buffer_id,
            "target": "echo",
            "collect": True,
            "stream": True,
            **header,
        }

    def start(self, raw: Raw | None = None, **header: Any) -> Header:
        """Begin it, or go on with it over another connection. What the supervisor says."""
        self.raw = raw or self.raw
        told = self._ask("start", **{**self._start, **header})
        if told["k"] == "receiving":
            self.next_chunk, self.received = told["next_chunk"], told.get("received", 0)
        return told

    def put(self, *items: str, number: int | None = None, count: int | None = None) -> Header:
        """The next chunk, unless it says which one."""
        body = b"".join(item.encode() + b"\0" for item in items)
        told = self._ask(
            "chunk",
            body,
            number=self.next_chunk if number is None else number,
            count=len(items) if count is None else count,
            forms="0",
        )
        if told["k"] == "received":
            self.received += len(items) if told["next_chunk"] > self.next_chunk else 0
            self.next_chunk = told["next_chunk"]
        return told

    def seal(self, total: int | None = None, digest: str | None = None) -> Header:
        return self._ask("open", total=self.received if total is None else total, digest=digest)

    def abandon(self) -> None:
        """Nothing answers it."""
        self.raw.write(frame_of({"k": "abandon", "request": self.request}))

    def until_ended(self) -> str:
        """The buffer whose end we are told next."""
        while not self.ended:
            self._take(self.raw.answer())
        return self.ended.pop(0)

    def _ask(self, kind: str, *bodies: bytes, **header: Any) -> Header:
        told: Header | None = self.raw.ask(kind, *bodies, request=self.request, **header)
        while (told := self._take(told)) is None:
            told = self.raw.answer()
        return told

    def _take(self, told: Header | None) -> Header | None:
        if told is not None and told["k"] == "ended":
            self.ended.append(told["buffer_id"])
            return None
        return told


def greeted(raw: Raw, name: str | None = None) -> Raw:
    """The app is known by then."""
    assert raw.hello(name=name, needs_app=True)["k"] == "welcome"
    return raw


def refusal(told: Header) -> str:
    """Why the supervisor refused: one line."""
    assert told["k"] == "error", told
    assert "\n" not in told["message"]
    return f"{told['type']}: {told['message']}"


class Connections:
    """To one daemon: greeted, and closed in the end."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self.stack = ExitStack()

    def __call__(self, name: str | None = None) -> Raw:
        return greeted(self.stack.enter_context(Raw(self._journal)), name)


def row_of(facts: Facts, buffer_id: str = "b") -> dict[str, Any]:
    (row,) = facts.dicts("SELECT * FROM buffers WHERE buffer_id = ?", buffer_id)
    return row


def completions(facts: Facts) -> int:
    return int(facts.value("SELECT count(*) FROM messages WHERE kind = 'BufferComplete'"))


def chunks(facts: Facts) -> list[tuple[int, int]]:
    return facts.rows("SELECT first_index, item_count FROM chunk ORDER BY buffer_seq, first_index")
