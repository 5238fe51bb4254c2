"""A real worker process, and its supervisor's side of the pipes: what a worker says, without a supervisor."""

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from support import PATIENCE_S

from durable_bus.app.finding import parse_spec
from durable_bus.payloads.packing import pack, unpack
from durable_bus.wire.decoding import decode_report
from durable_bus.wire.framing import READ_BYTES, FrameReader, encode, write_all
from durable_bus.wire.parts import Failed, Spent
from durable_bus.wire.slot import ORDINAL_MAX, Slot, slot_memory
from durable_bus.wire.spawning import WorkerArguments, spawn
from durable_bus.wire.work import Answers, Ready, Report, WorkItems, WorkMessage

__all__ = ["WorkerProcess"]


class WorkerProcess:
    """A worker of the app `spec`. Leaving the block closes its pipe, at which it ends."""

    def __init__(self, spec: str, journal: Path) -> None:
        read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC)
        self._read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        slot_fd = slot_memory()
        self.slot = Slot(slot_fd)
        self.slot.limit = ORDINAL_MAX
        fds = (read_fd, write_fd, slot_fd)
        arguments = WorkerArguments(fds, os.getpid(), parse_spec(spec), str(journal))
        self.process = spawn("durable_bus.worker", arguments, fds)
        for fd in fds:
            os.close(fd)
        self._reader = FrameReader(decode_report)
        self._ordinal = 0
        self._dispatches = 0
        self.frames: list[Answers] = []
        self.texts: dict[tuple[int, int], str] = {}
        """Answers by dispatch and index."""
        self.ready: Ready | None = None
        self.until(lambda: self.ready, "it is ready")

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._write_fd)
        code = self.process.wait(PATIENCE_S)
        os.close(self._read_fd)
        assert code == 0

    def give(self, listener: str, *items: Any) -> int:
        """A frame of items, JSON unless they are all text; the ordinal of the first."""
        self._dispatches += 1
        texts = [one if isinstance(one, str) else msgspec.json.encode(one).decode() for one in items]
        forms = "".join("0" if isinstance(one, str) else "2" for one in items)
        forms = forms[:1] if len(set(forms)) == 1 else forms
        work = WorkItems(self._dispatches, 1, "b", "t/b", listener, 0, 1, self._ordinal, forms)
        return self._send(work, texts)

    def tell(self, listener: str, steps: Any) -> int:
        """A message; its ordinal."""
        self._dispatches += 1
        text = msgspec.json.encode(steps).decode()
        name = f"m{self._dispatches}"
        work = WorkMessage(-self._dispatches, name, name, "cli", listener, 1, self._ordinal, 2)
        return self._send(work, [text])

    def _send(self, work: WorkItems | WorkMessage, texts: list[str]) -> int:
        write_all(self._write_fd, encode(work, pack(texts)))
        self._ordinal += len(texts)
        return work.ordinal

    def until(self, fact: Callable[[], Any], what: str) -> Any:
        """Take in what the worker says until something is true."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not (value := fact()):
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"it never came true: {what}; it said {self.frames}"
            if select.select([self._read_fd], [], [], left_s)[0]:
                data = os.read(self._read_fd, READ_BYTES)
                assert data, f"the worker has ended before {what}"
                for frame in self._reader.feed(data):
                    self._take(frame.header, frame.bodies)
        return value

    def _take(self, report: Report, bodies: list[bytes]) -> None:
        if isinstance(report, Ready):
            self.ready = report
            return
        assert isinstance(report, Answers), report
        self.frames.append(report)
        for segment, body in zip(report.segments, bodies, strict=False):
            for position, text in enumerate(unpack(body)):
                self.texts[segment.dispatch, segment.first + position] = text

    @property
    def failed(self) -> list[Failed]:
        return [failed for frame in self.frames for failed in frame.failed]

    @property
    def spent(self) -> list[Spent]:
        return [spent for frame in self.frames for spent in frame.spent]

    @property
    def discarded(self) -> list[tuple[int, int]]:
        return [frame.discarded for frame in self.frames if frame.discarded is not None]

    @property
    def outcomes(self) -> int:
        return sum(len(frame.outcomes) for frame in self.frames)

    def until_done(self, count: int) -> None:
        """So many items and messages are answered, failed, handled or thrown away."""

        def done() -> bool:
            thrown_away = sum(end - first for first, end in self.discarded)
            return len(self.texts) + len(self.failed) + self.outcomes + thrown_away >= count

        self.until(done, f"{count} are done")
