"""Clients of the supervisor: the one it was started for, over an inherited socketpair, or any number over a
Unix socket.

Nobody here ever waits for a client: what cannot be sent now waits in memory up to a limit, and a client over
it is cut off; it reconnects and asks again, as every request may be repeated.

Nor does one client make another wait: a turn takes a few frames of each, one of each after the other, and
whoever has more, or does not read its answers, is not read from meanwhile. What it goes on to send stays in
its socket, and is its own to wait for.

A connection counts as a client from its hello on. Those that have said nothing yet have places of their own,
and the one that has been silent longest makes room: a flood of half-open or garbage connections costs the
others nothing but their turns' length.
"""

import contextlib
import socket
from collections import deque
from collections.abc import Callable

from durable_bus.errors import DurableBusError, LimitExceeded, UsageError, one_line, said
from durable_bus.supervisor.config import Limits
from durable_bus.supervisor.io.accepting import Acceptor
from durable_bus.supervisor.io.log import SparingLog
from durable_bus.supervisor.io.reactor import SelectorReactor
from durable_bus.supervisor.ports import ClientClosed, ClientSpoke
from durable_bus.wire.decoding import decode_request, error_frame
from durable_bus.wire.framing import READ_BYTES, Frame, FrameReader, Outgoing, encode
from durable_bus.wire.parts import Misfit
from durable_bus.wire.protocol import AskStatus, FromClient, Hello

__all__ = ["Limits", "SocketConnections"]

READ_BYTES_MAX = 2 * 1024 * 1024
"""How much one turn takes from all clients together."""
FRAMES_MAX = 512
"""How many frames one turn takes from all clients together."""
CLIENT_FRAMES_MAX = 64
"""How many of one client, and how many it may have waiting before it is not read from."""
_SHARE_BYTES_MIN = 32 * 1024
_ATTENDED_STEP_S_MAX = 10.0


class _Client:
    """`waiting_since_s`: since when a hello or the rest of a frame has not come; None: nothing is due.

    `given_back`: frames that could not be handled yet, before all that its reader holds. `rests`: they could
    not be handled in the last turn. `ended`: it says nothing more; it is dropped when its last frame has been
    handled.
    """

    def __init__(
        self, connection: socket.socket, reader: FrameReader[FromClient], *, is_parent: bool
    ) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.is_parent = is_parent
        self.reader = reader
        self.outgoing = Outgoing(connection.fileno())
        self.given_back: deque[Frame[FromClient]] = deque()
        self.rests = False
        self.ended = False
        self.closing = False
        self.greeted = is_parent
        self.waiting_since_s: float | None = None
        self.watched: tuple[bool, bool] | None = None

    @property
    def has_said(self) -> bool:
        """A frame of it waits to be handled."""
        return not self.closing and (bool(self.given_back) or self.reader.has_frame)

    @property
    def may_say_more(self) -> bool:
        """Not before what it has said is taken. A little, while it rests: its end would not be seen."""
        if self.ended or self.closing or not self.rests:
            return not (self.ended or self.closing or self.has_said)
        kept_bytes = sum(frame.size_bytes for frame in self.given_back)
        return kept_bytes + self.reader.pending_bytes < READ_BYTES

    def next_frame(self) -> Frame[FromClient]:
        """Raises DurableBusError or ValueError for what no client of ours would send."""
        self.rests = False
        return self.given_back.popleft() if self.given_back else self.reader.next_frame()


class SocketConnections:
    """The real `ports.Connections`. `now_s` reads the monotonic clock, for the limits on time."""

    def __init__(
        self,
        reactor: SelectorReactor,
        now_s: Callable[[], float],
        limits: Limits | None = None,
        log: Callable[..., None] | None = None,
    ) -> None:
        self._reactor = reactor
        self._now_s = now_s
        self._limits = limits or Limits()
        self._log = SparingLog(log or (lambda event, **facts: None), now_s)
        self._clients: dict[int, _Client] = {}
        self._closed: list[ClientClosed] = []
        self._first_id = 0
        """Whose turn it is to be heard first."""
        self._next_id = 1
        self._budget_bytes = READ_BYTES_MAX
        self._share_bytes = READ_BYTES_MAX
        self._read_from: set[int] = set()
        """Since the last turn."""
        self._acceptor: Acceptor | None = None
        self._attended_s = 0.0
        self._looked_s = now_s()

    def __len__(self) -> int:
        return len(self._clients)

    def add_parent(self, connection: socket.socket, end_fd: int) -> None:
        """The client that this process was started for: when it goes, the supervisor ends.

        Its socket may stay open after it, held by a child that it has forked, and so its own end is watched.
        """
        connection_id = self._add(connection, is_parent=True)
        self._reactor.watch(end_fd, lambda mask: self._parent_ended(connection_id, end_fd))

    def listen(self, listener: socket.socket) -> None:
        self._acceptor = Acceptor(listener, self._reactor, self._now_s, self._log, self._accepted)

    # Coming

    def _accepted(self, connection: socket.socket) -> None:
        """Of too many connections that have said nothing, the one that came first goes."""
        silent = [i for i, client in self._clients.items() if not client.greeted]
        if len(silent) >= self._limits.silent_max:
            self._drop(silent[0])
            self._log("silent connections dropped")
        self._add(connection, is_parent=False)

    def _parent_ended(self, connection_id: int, end_fd: int) -> None:
        self._reactor.forget(end_fd)
        if connection_id in self._clients:
            self._drop(connection_id)

    def _add(self, connection: socket.socket, *, is_parent: bool) -> int:
        connection_id = self._next_id
        self._next_id += 1
        limit = self._limits.frame_bytes_max if is_parent else self._limits.hello_bytes_max
        reader = FrameReader(decode_request, limit)
        self._clients[connection_id] = _Client(connection, reader, is_parent=is_parent)
        self._watch(connection_id)
        return connection_id

    def _watch(self, connection_id: int) -> None:
        client = self._clients[connection_id]
        wanted = (self._is_read(client), client.outgoing.pending_bytes > 0)
        if wanted != client.watched:
            client.watched = wanted
            self._reactor.watch(
                client.connection.fileno(),
                lambda mask: self._ready(connection_id),
                read=wanted[0],
                write=wanted[1],
            )

    # Reading

    def _ready(self, connection_id: int) -> None:
        client = self._clients.get(connection_id)
        if client is None or not self._flush(connection_id, client):
            return
        if self._is_read(client):
            self._read_from.add(connection_id)
            self._read(connection_id, client)

    def _read(self, connection_id: int, client: _Client) -> None:
        """Read a fair share of what a turn takes: nobody who never stops sending keeps the others waiting."""
        share_bytes = min(self._share_bytes, self._budget_bytes)
        while share_bytes > 0 and client.may_say_more:
            asked_bytes = min(READ_BYTES, share_bytes)
            try:
                data = client.connection.recv(asked_bytes)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data and client.is_parent:
                self._drop(connection_id)  # nobody is left to work for, whatever it has said last
                return
            client.ended = not data
            share_bytes -= len(data)
            self._budget_bytes -= len(data)
            client.reader.feed(data)
            if 0 < len(data) < asked_bytes:
                return  # that was all: to ask again takes 5 us

    def _greet(self, client: _Client, first: FromClient) -> None:
        """From its hello on it is a client, also when that is another version's. Whoever just asks how we are
        need not be one: that is answered also when there is no room.
        """
        misfit = first.kind if isinstance(first, Misfit) else None
        if isinstance(first, AskStatus) or misfit == "status":
            return
        if not isinstance(first, Hello) and misfit != "hello":
            raise UsageError("the first frame must be a hello of durable_bus")
        if sum(1 for other in self._clients.values() if other.greeted) >= self._limits.clients_max:
            raise LimitExceeded(f"the daemon has {self._limits.clients_max} clients already")
        client.greeted = True
        client.reader.frame_bytes_max = self._limits.frame_bytes_max

    def _cut_off(self, connection_id: int, error: Exception) -> None:
        self._log("client cut off", reason=one_line(said(error))[:200])
        if not isinstance(error, DurableBusError):
            error = UsageError(f"not a frame of durable_bus: {said(error)[:200]}")
        client = self._clients[connection_id]
        client.outgoing.append(encode(error_frame(error)))
        self.close(connection_id)

    # Sending

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
        self._closed.append(ClientClosed(connection_id, client.is_parent))
        if self._acceptor is not None:
            self._acceptor.attend(has_room=True)

    def send(self, connection_id: int, data: bytes) -> None:
        client = self._clients.get(connection_id)
        if client is None:
            return
        client.outgoing.append(data)
        try:
            client.outgoing.flush()
        except OSError:
            self._hang_up(client)
        if client.outgoing.pending_bytes > self._limits.unsent_bytes_max:
            self._log("client cut off", reason="it does not read its answers")
            self._hang_up(client)
        self._watch(connection_id)

    @staticmethod
    def _hang_up(client: _Client) -> None:
        """The next turn finds it closed, at once: whoever waits for its end must not wait for a timer."""
        with contextlib.suppress(OSError):
            client.connection.shutdown(socket.SHUT_RDWR)

    def close(self, connection_id: int) -> None:
        client = self._clients.get(connection_id)
        if client is not None:
            client.closing = True  # whatever it has said besides is not to be heard
            self._flush(connection_id, client)

    # Turns

    def take_events(self) -> list[ClientSpoke | ClientClosed]:
        self._attend()
        self._budget_bytes = READ_BYTES_MAX
        self._share_bytes = max(_SHARE_BYTES_MIN, READ_BYTES_MAX // max(1, len(self._read_from)))
        for connection_id, client in list(self._clients.items()):
            if client.ended and not client.has_said:
                self._drop(connection_id)  # not before what it said last was handled
        closed, self._closed = self._closed, []
        return [*closed, *self._take_turns()]

    def _take_turns(self) -> list[ClientSpoke]:
        """One frame of each client after the other: what there is no time for is the last of everybody's,
        and not all of somebody's.
        """
        spoke: list[ClientSpoke] = []
        taken: dict[int, int] = {}
        ids = [i for i, client in self._clients.items() if client.has_said and not self._is_deaf(client)]
        heard = deque([*(i for i in ids if i >= self._first_id), *(i for i in ids if i < self._first_id)])
        while heard and len(spoke) < FRAMES_MAX:
            connection_id = heard.popleft()
            client = self._clients[connection_id]
            try:
                frame = client.next_frame()
                if not client.greeted:
                    self._greet(client, frame.header)
            except (DurableBusError, ValueError) as error:
                self._cut_off(connection_id, error)
                continue
            spoke.append(ClientSpoke(connection_id, frame))
            taken[connection_id] = taken.get(connection_id, 0) + 1
            if taken[connection_id] < CLIENT_FRAMES_MAX and client.has_said:
                heard.append(connection_id)
        self._first_id = heard[0] if heard else 0
        for connection_id in (self._read_from | taken.keys()) & self._clients.keys():
            self._watch(connection_id)
        self._read_from.clear()
        return spoke

    def keep(self, frames: list[ClientSpoke]) -> None:
        """See `ports.Connections`."""
        for spoke in reversed(frames):
            client = self._clients.get(spoke.connection_id)
            if client is not None:
                client.given_back.appendleft(spoke.frame)
                client.rests = True
                self._first_id = spoke.connection_id
                self._watch(spoke.connection_id)

    @property
    def has_unread(self) -> bool:
        return bool(self._closed) or any(
            not client.rests and (not self._is_deaf(client) if client.has_said else client.ended)
            for client in self._clients.values()
        )

    def _is_deaf(self, client: _Client) -> bool:
        """It has been told more than it reads: until it has read, nothing of it is heard."""
        return client.outgoing.pending_bytes > self._limits.unsent_bytes_pause

    def _is_read(self, client: _Client) -> bool:
        return client.may_say_more and not self._is_deaf(client)

    def _attend(self) -> None:
        """Drop who is late. A half-open connection or half a frame must not hold a place for ever.

        Only time in which we listened counts: after we were stopped for a minute, what clients have sent
        meanwhile lies in their sockets. Nobody is judged before that was read, and nobody who is not read
        from.
        """
        now_s = self._now_s()
        self._attended_s += min(
            now_s - self._looked_s, _ATTENDED_STEP_S_MAX, self._limits.frame_timeout_s / 2
        )
        self._looked_s = now_s
        if self._acceptor is not None:
            self._acceptor.attend()
        if self._budget_bytes <= 0:
            return
        oldest_s = self._attended_s - self._limits.frame_timeout_s
        for connection_id, client in list(self._clients.items()):
            is_due = not client.greeted or (client.reader.pending_bytes and not client.reader.has_frame)
            if not is_due:
                client.waiting_since_s = None
            elif client.waiting_since_s is None or (client.greeted and not self._is_read(client)):
                client.waiting_since_s = self._attended_s
            elif client.waiting_since_s < oldest_s:
                self._log("client cut off", reason="its frame did not come in time")
                self._drop(connection_id)

    def close_all(self) -> None:
        for connection_id in list(self._clients):
            self.close(connection_id)
        if self._acceptor is not None:
            self._acceptor.close()
