"""Whatever clients say, in whatever pieces: what fits is heard once and in order, and only who deserves it is
closed.
"""

import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from services import frame_of
from turns import Turns

from durable_bus.supervisor.config import Limits
from durable_bus.supervisor.ports import ClientClosed, ClientSpoke
from durable_bus.wire.framing import encode
from durable_bus.wire.parts import Misfit
from durable_bus.wire.protocol import AskStatus, Watch

GARBAGE = [b"\xff\xff\xff\xff", frame_of(b"{"), frame_of(b"[]"), b"\x00\x00\x00\x06\x00\x00\xff\xff{}"]
PIECE_BYTES = [1, 3, 4, 50, 1_000, 100_000]
ANSWER = bytes(300_000)
"""More than a client may leave unread before it is not heard."""


@dataclass
class Speaker:
    """A client: what it has to say, and what was heard of it. `whole`: of each frame its end and its id."""

    script: bytes
    whole: list[tuple[int, str]]
    garbage_at: int | None
    said: int = 0
    read_bytes: int = 0
    closed: bool = False
    answered: bool = False
    heard: list[str] = field(default_factory=list)
    ended: bool = False

    @property
    def expected(self) -> list[str]:
        return [request for end, request in self.whole if end <= self.said]

    @property
    def deserves_it(self) -> bool:
        return self.closed or (self.garbage_at is not None and self.said > self.garbage_at)


@st.composite
def scripts(draw: st.DrawFn) -> Speaker:
    script, whole, garbage_at = b"", [], None
    for number, kind in enumerate(draw(st.lists(st.sampled_from(["fits", "long", "misfit"]), max_size=200))):
        request = str(number)
        if kind == "fits":
            script += encode(AskStatus(request))
        elif kind == "long":
            script += encode(Watch(request, "x" * 30_000))
        else:
            script += frame_of({"k": "watch", "request": request, "buffer_id": 5})
        whole.append((len(script), request))
    if draw(st.booleans()):
        garbage_at = len(script)
        script += draw(st.sampled_from(GARBAGE)) + encode(AskStatus("never heard"))
    return Speaker(script, whole, garbage_at)


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 3), st.sampled_from(PIECE_BYTES)),
    st.tuples(st.just("turn"), st.just(0), st.sampled_from([0, 1, 2, 5, 1000])),
    st.tuples(st.just("answer"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("read"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("close"), st.integers(0, 3), st.just(0)),
)


class Talk:
    """Clients that have said hello, and the turns in which they are heard."""

    def __init__(self, folder: Path, speakers: list[Speaker]) -> None:
        self.turns = Turns(folder, Limits(unsent_bytes_pause=100_000))
        self.speakers = speakers
        self.sockets = []
        self.by_id: dict[int, Speaker] = {}
        for speaker in speakers:
            self.sockets.append(self.turns.connect())
            self.by_id[len(self.by_id) + 1] = speaker
        for client in self.sockets:
            client.setblocking(False)

    def send(self, who: int, size: int) -> None:
        speaker = self.speakers[who]
        if not speaker.closed:
            with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                speaker.said += self.sockets[who].send(speaker.script[speaker.said : speaker.said + size])

    def turn(self, handled: int) -> None:
        """So many frames are handled; the others are kept for the next turn."""
        events = self.turns.turn()
        spoke = [event for event in events if isinstance(event, ClientSpoke)]
        for event in events:
            if isinstance(event, ClientClosed):
                speaker = self.by_id[event.connection_id]
                assert speaker.deserves_it
                assert not speaker.ended
                speaker.ended = True
        for event in spoke[:handled]:
            speaker = self.by_id[event.connection_id]
            assert not speaker.ended
            header = event.frame.header
            assert header.request is not None
            assert isinstance(header, AskStatus | Watch | Misfit)
            speaker.heard.append(header.request)
        self.turns.connections.keep(spoke[handled:])

    def answer(self, who: int) -> None:
        self.speakers[who].answered = True
        self.turns.connections.send(who + 1, ANSWER)

    def read(self, who: int) -> None:
        if not self.speakers[who].closed:
            with suppress(BlockingIOError, ConnectionResetError):
                while data := self.sockets[who].recv(1 << 20):
                    self.speakers[who].read_bytes += len(data)

    def close(self, who: int) -> None:
        self.speakers[who].closed = True
        self.sockets[who].close()

    def _how_far(self) -> list[tuple[int, int, int, bool]]:
        return [(one.said, one.read_bytes, len(one.heard), one.ended) for one in self.speakers]

    def to_the_end(self) -> None:
        """Everybody says the rest, and reads, and is heard."""
        quiet = 0
        while quiet < 5:
            before = self._how_far()
            for who in range(len(self.speakers)):
                self.send(who, 1 << 20)
                self.read(who)
            self.turn(1000)
            quiet = 0 if before != self._how_far() or self.turns.connections.has_unread else quiet + 1


@example(
    [Speaker(b"", [], None), Speaker(GARBAGE[0] + encode(AskStatus("never heard")), [], 0)],
    [("answer", 1, 0)] * 6,
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(scripts(), min_size=1, max_size=4), st.lists(STEPS, max_size=60))
def test_what_fits_is_heard_once_in_order_and_only_who_deserves_it_is_closed(
    speakers: list[Speaker], steps: list[tuple[str, int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        talk = Talk(Path(folder), speakers)
        try:
            for what, who, size in steps:
                if what == "turn":
                    talk.turn(size)
                elif who < len(speakers):
                    {"answer": talk.answer, "read": talk.read, "close": talk.close}.get(
                        what, lambda who, size=size: talk.send(who, size)
                    )(who)
            talk.to_the_end()
            for speaker in speakers:
                heard = speaker.expected
                if speaker.garbage_at is not None or (speaker.closed and speaker.answered):
                    heard = heard[: len(speaker.heard)]  # it may be cut off before the last is handled
                assert speaker.heard == heard
                assert speaker.ended == speaker.deserves_it
        finally:
            talk.turns.close()
