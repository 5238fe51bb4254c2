"""The real client sockets without a supervisor: a turn is what the test says."""

import socket
from contextlib import ExitStack
from pathlib import Path

from durable_bus.supervisor.config import Limits
from durable_bus.supervisor.io.client_sockets import SocketConnections
from durable_bus.supervisor.io.reactor import SelectorReactor
from durable_bus.supervisor.ports import ClientClosed, ClientSpoke
from durable_bus.wire.framing import encode
from durable_bus.wire.protocol import Hello


class Turns:
    """The real connections, and clients of them; a turn is what the test says."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._path = folder / "sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._listener.setblocking(False)
        self._stack = ExitStack()
        self.reactor = SelectorReactor()
        self.now_s = 1000.0
        self.connections = SocketConnections(self.reactor, lambda: self.now_s, limits)
        self.connections.listen(self._listener)

    def connect(self) -> socket.socket:
        """A client that has said hello."""
        client = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(str(self._path))
        client.sendall(encode(Hello("hello", version="1")))
        assert [request for _, request in self.until_heard()] == ["hello"]
        return client

    def until_heard(self) -> list[tuple[int, str]]:
        heard: list[tuple[int, str]] = []
        while not heard:
            heard = self.heard(self.turn())
        return heard

    def turn(self) -> list[ClientSpoke | ClientClosed]:
        self.reactor.poll(0)
        return self.connections.take_events()

    def poll(self) -> None:
        self.reactor.poll(0)

    @staticmethod
    def heard(events: list[ClientSpoke | ClientClosed]) -> list[tuple[int, str]]:
        return [(e.connection_id, str(e.frame.header.request)) for e in events if isinstance(e, ClientSpoke)]

    def close(self) -> None:
        self.connections.close_all()
        self._stack.close()
