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
import errno
import os
import socket
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from durable_bus.errors import DurableBusError, LimitExceeded, UsageError, one_line, said
from durable_bus.supervisor.io.reactor import SelectorReactor
from durable_bus.supervisor.ports import ClientClosed, ClientSpoke
from durable_bus.wire.framing import (
    FRAME_BYTES_MAX,
    READ_BYTES,
    Frame,
    FrameReader,
    Outgoing,
    dump_json,
    encode,
)
from durable_bus.wire.socket_file import peer_uid

__all__ = ["Limits", "SocketConnections"]

READ_BYTES_MAX = 2 * 1024 * 1024
"""How much one turn takes from all clients together."""
FRAMES_MAX = 512
"""How many frames one turn takes from all clients together."""
CLIENT_FRAMES_MAX = 64
"""How many of one client, and how many it may have waiting before it is not read from."""
_SHARE_BYTES_MIN = 32 * 1024
_ACCEPTED_MAX = 16
_ATTENDED_STEP_S_MAX = 10.0
_ACCEPT_AGAIN_S = 1.0
_SAY_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may take of a daemon."""

    clients_max: int = 64
    silent_max: int = 64
    """Connections that have not said hello yet."""
    frame_timeout_s: float = 30.0
    """How long a frame may take to arrive once it has begun, and a new client to say hello."""
    frame_bytes_max: int = FRAME_BYTES_MAX
    hello_bytes_max: int = 64 * 1024
    unsent_bytes_max: int = 64 * 1024 * 1024
    """Who has more to read is cut off. It takes big messages to come so far, see the next one."""
    unsent_bytes_pause: int = 256 * 1024
    """Who has more to read is not read from until it has read."""


class _Client:
    """`waiting_since_s`: since when a hello or the rest of a frame has not come; None: nothing is due.

    `frames`: what it has said and no turn has taken. `has_more`: its reader may hold whole frames besides.
    `ended`: it says nothing more; it is dropped when the last of its frames has been handled. `kept`: the
    first of its frames could not be handled in the last turn.
    """

    def __init__(
        self, connection: socket.socket, reader: FrameReader[Any], *, is_parent: bool, now_s: float
    ) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.is_parent = is_parent
        self.reader = reader
        self.outgoing = Outgoing(connection.fileno())
        self.frames: deque[Frame[Any]] = deque()
        self.has_more = False
        self.ended = False
        self.kept = False
        self.closing = False
        self.greeted = is_parent
        self.waiting_since_s: float | None = None if is_parent else now_s
        self.watched: tuple[bool, bool] | None = None

    @property
    def is_full(self) -> bool:
        """It may not say more before what it has said is taken. Whose frames are kept may, a little: its end
        would not be seen.
        """
        if self.ended or self.has_more:
            return True
        if not self.kept:
            return bool(self.frames)
        return sum(frame.size_bytes for frame in self.frames) >= READ_BYTES

    @property
    def waits(self) -> bool:
        """Something of it is to be heard before anything else is read."""
        return bool(self.frames) or self.has_more or self.ended


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
        self._log = log
        self._clients: dict[int, _Client] = {}
        self._waiting: dict[int, _Client] = {}
        """Those of whom something waits: frames, or their end."""
        self._closed: list[ClientClosed] = []
        self._first_id = 0
        """Whose turn it is to be heard first."""
        self._next_id = 1
        self._budget_bytes = READ_BYTES_MAX
        self._share_bytes = READ_BYTES_MAX
        self._ready_clients = 0
        self._listener: socket.socket | None = None
        self._accept_again_s: float | None = None
        self._attended_s = 0.0
        self._looked_s = now_s()
        self._unsaid: Counter[str] = Counter()
        self._say_at_s: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def add_parent(self, connection: socket.socket, pid_fd: int) -> None:
        """The client that this process was started for: when it goes, the supervisor ends.

        Its socket may stay open after it, held by a child that it has forked, and so its pidfd is watched.
        """
        connection_id = self._add(connection, is_parent=True)
        self._reactor.watch(pid_fd, lambda mask: self._parent_ended(connection_id, pid_fd))

    def listen(self, listener: socket.socket) -> None:
        self._listener = listener
        self._reactor.watch(listener.fileno(), lambda mask: self._accept())

    # Coming

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(_ACCEPTED_MAX):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._rest(error)
                return  # else it gave up meanwhile
            uid = peer_uid(connection)
            if uid not in (os.geteuid(), 0):
                self._refuse(connection, f"this daemon belongs to another user (uid {os.geteuid()})")
                self._say("client refused", uid=uid)
            else:
                self._make_room()
                self._add(connection, is_parent=False)

    def _rest(self, error: OSError) -> None:
        """No descriptors left: accept nobody for a moment, or the loop would do nothing but try."""
        assert self._listener is not None
        self._say("cannot accept clients", reason=error.strerror)
        self._reactor.forget(self._listener.fileno())
        self._accept_again_s = self._now_s() + _ACCEPT_AGAIN_S

    @staticmethod
    def _refuse(connection: socket.socket, message: str) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.send(encode(_error(UsageError(message))))
        connection.close()

    def _make_room(self) -> None:
        """Of too many connections that have said nothing, the one that came first goes."""
        silent = [i for i, client in self._clients.items() if not client.greeted]
        if len(silent) >= self._limits.silent_max:
            self._drop(silent[0])
            self._say("silent connections dropped")

    def _parent_ended(self, connection_id: int, pid_fd: int) -> None:
        self._reactor.forget(pid_fd)
        if connection_id in self._clients:
            self._drop(connection_id)

    def _add(self, connection: socket.socket, *, is_parent: bool) -> int:
        connection_id = self._next_id
        self._next_id += 1
        limit = self._limits.frame_bytes_max if is_parent else self._limits.hello_bytes_max
        self._clients[connection_id] = _Client(
            connection, FrameReader(frame_bytes_max=limit), is_parent=is_parent, now_s=self._attended_s
        )
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
            self._ready_clients += 1
            self._read(connection_id, client)

    def _read(self, connection_id: int, client: _Client) -> None:
        """Read a fair share of what a turn takes: nobody who never stops sending keeps the others waiting."""
        share_bytes = min(self._share_bytes, self._budget_bytes)
        while share_bytes > 0 and not client.has_more:
            try:
                data = client.connection.recv(min(READ_BYTES, share_bytes))
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data and client.is_parent:
                self._drop(connection_id)  # nobody is left to work for, whatever it has said last
                return
            if not data:
                client.ended = True
                self._waiting[connection_id] = client
                return
            share_bytes -= len(data)
            self._budget_bytes -= len(data)
            if not self._take_apart(connection_id, client, data):
                return

    def _take_apart(self, connection_id: int, client: _Client, data: bytes) -> bool:
        """Make frames of what has come, as many as a client may have waiting. False: it was cut off."""
        try:
            self._feed(connection_id, client, data)
        except (DurableBusError, ValueError) as error:
            self._cut_off(connection_id, error)
            return False
        return True

    def _feed(self, connection_id: int, client: _Client, data: bytes) -> None:
        """Raises DurableBusError or ValueError for what no client of ours would send."""
        came = False
        room = max(0, CLIENT_FRAMES_MAX - len(client.frames))
        with contextlib.closing(client.reader.feed(data)) as frames:
            for frame in islice(frames, room):
                came = True
                _check_repeatable(frame.header)
                if not client.greeted:
                    self._greet(client, frame.header.get("k"))
                client.frames.append(frame)
        client.has_more = len(client.frames) >= CLIENT_FRAMES_MAX
        if came:
            self._waiting[connection_id] = client
        if client.greeted and not client.reader.pending_bytes:
            client.waiting_since_s = None
        elif client.waiting_since_s is None or (came and client.greeted):
            client.waiting_since_s = self._attended_s

    def _greet(self, client: _Client, kind: object) -> None:
        """From its hello on it is a client. Whoever just asks how we are need not be one: that is answered
        also when there is no room.
        """
        if kind == "status":
            return
        if kind != "hello":
            raise UsageError("the first frame must be a hello of durable_bus")
        if sum(1 for other in self._clients.values() if other.greeted) >= self._limits.clients_max:
            raise LimitExceeded(f"the daemon has {self._limits.clients_max} clients already")
        client.greeted = True
        client.reader.frame_bytes_max = self._limits.frame_bytes_max

    def _cut_off(self, connection_id: int, error: Exception) -> None:
        self._say("client cut off", reason=one_line(said(error))[:200])
        if not isinstance(error, DurableBusError):
            error = UsageError(f"not a frame of durable_bus: {said(error)[:200]}")
        client = self._clients[connection_id]
        client.outgoing.append(encode(_error(error)))
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
        self._waiting.pop(connection_id, None)
        self._reactor.forget(client.connection.fileno())
        client.connection.close()
        self._closed.append(ClientClosed(connection_id, client.is_parent))
        self._accept_on()

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
            self._say("client cut off", reason="it does not read its answers")
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
            client.closing = True
            client.frames.clear()  # whatever it has said besides is not to be heard
            client.has_more = False
            self._flush(connection_id, client)

    # Turns

    def take_events(self) -> list[ClientSpoke | ClientClosed]:
        self._attend()
        self._budget_bytes = READ_BYTES_MAX
        self._share_bytes = max(_SHARE_BYTES_MIN, READ_BYTES_MAX // max(1, self._ready_clients))
        self._ready_clients = 0
        if not self._waiting:
            closed, self._closed = self._closed, []
            return list(closed)
        for connection_id, client in list(self._waiting.items()):
            if client.ended and not client.frames and not client.has_more:
                self._drop(connection_id)  # not before what it said last was handled
        closed, self._closed = self._closed, []
        spoke = self._take_turns()
        for connection_id, client in list(self._waiting.items()):
            if client.has_more and not client.frames and not self._take_apart(connection_id, client, b""):
                continue
            if not client.waits:
                del self._waiting[connection_id]
            self._watch(connection_id)
        return [*closed, *spoke]

    def _take_turns(self) -> list[ClientSpoke]:
        """One frame of each client after the other: what there is no time for is the last of everybody's,
        and not all of somebody's.
        """
        spoke: list[ClientSpoke] = []
        taken: Counter[int] = Counter()
        ids = sorted(i for i, client in self._waiting.items() if client.frames and not self._is_deaf(client))
        heard = deque([*(i for i in ids if i >= self._first_id), *(i for i in ids if i < self._first_id)])
        while heard and len(spoke) < FRAMES_MAX:
            connection_id = heard.popleft()
            frames, self._waiting[connection_id].kept = self._waiting[connection_id].frames, False
            spoke.append(ClientSpoke(connection_id, frames.popleft()))
            taken[connection_id] += 1
            if frames and taken[connection_id] < CLIENT_FRAMES_MAX:
                heard.append(connection_id)
        self._first_id = heard[0] if heard else 0
        return spoke

    def keep(self, frames: list[ClientSpoke]) -> None:
        """See `ports.Connections`."""
        for spoke in reversed(frames):
            client = self._clients.get(spoke.connection_id)
            if client is not None and not client.closing:
                client.frames.appendleft(spoke.frame)
                client.kept = True
                self._waiting[spoke.connection_id] = client
                self._first_id = spoke.connection_id
        for connection_id in {spoke.connection_id for spoke in frames}:
            if connection_id in self._clients:
                self._watch(connection_id)

    @property
    def has_unread(self) -> bool:
        return any(
            not client.kept and not (client.frames and self._is_deaf(client))
            for client in self._waiting.values()
        )

    def _is_deaf(self, client: _Client) -> bool:
        """It has been told more than it reads: until it has read, nothing of it is heard."""
        return client.outgoing.pending_bytes > self._limits.unsent_bytes_pause

    def _is_read(self, client: _Client) -> bool:
        return not (client.is_full or client.closing or self._is_deaf(client))

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
        if self._accept_again_s is not None and now_s >= self._accept_again_s:
            self._accept_on()
        if self._budget_bytes <= 0:
            return
        oldest_s = self._attended_s - self._limits.frame_timeout_s
        late = []
        for connection_id, client in self._clients.items():
            if client.waiting_since_s is None:
                continue
            if client.greeted and not self._is_read(client):
                client.waiting_since_s = self._attended_s
            elif client.waiting_since_s < oldest_s:
                late.append(connection_id)
        for connection_id in late:
            self._say("client cut off", reason="its frame did not come in time")
            self._drop(connection_id)

    def _accept_on(self) -> None:
        if self._accept_again_s is not None and self._listener is not None:
            self._accept_again_s = None
            self.listen(self._listener)

    def _say(self, event: str, **facts: Any) -> None:
        """Log it, but a flood of the same not more often than every few seconds, with their number."""
        self._unsaid[event] += 1
        now_s = self._now_s()
        if self._log is not None and now_s >= self._say_at_s.get(event, now_s):
            self._say_at_s[event] = now_s + _SAY_AGAIN_S
            times = self._unsaid.pop(event)
            self._log(event, **facts, **({"times": times} if times > 1 else {}))

    def close_all(self) -> None:
        for connection_id in list(self._clients):
            self.close(connection_id)
        if self._listener is not None:
            self._reactor.forget(self._listener.fileno())
            self._listener.close()


def _check_repeatable(header: dict[str, Any]) -> None:
    """Raises ValueError for what an answer could not repeat: half a surrogate pair, lists a thousand deep.

    Who asks under such an id would wait for ever for an answer that bears it. Costs 7 µs a request.
    """
    try:
        dump_json(header).encode()
    except RecursionError:
        raise ValueError("a frame's header is nested too deeply") from None


def _error(error: DurableBusError) -> dict[str, Any]:
    """A frame that belongs to no request: the connection ends with it."""
    return {"k": "error", "request": None, "type": type(error).__name__, "message": str(error)}
