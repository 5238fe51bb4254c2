"""The connections port: links between a supervisor and simulated clients."""

import itertools
from collections import deque
from typing import TYPE_CHECKING

from durable_bus.supervisor.ports import ClientClosed, ClientSpoke
from durable_bus.wire.decoding import decode_answer
from durable_bus.wire.framing import Frame, FrameReader
from durable_bus.wire.protocol import AbandonReceiving, FromClient, ToClient, Welcome

if TYPE_CHECKING:
    from simulation.clients import Peer
    from simulation.machine import Machine

__all__ = ["Link", "SimulatedConnections"]


class Link:
    """One connection between a client and a supervisor."""

    def __init__(self, connection_id: int, peer: "Peer") -> None:
        self.connection_id = connection_id
        self.peer = peer
        self.to_supervisor: deque[Frame[FromClient]] = deque()
        self.kept: deque[Frame[FromClient]] = deque()
        """What the supervisor has read, and given back for later."""
        self.closed_by_client = False
        self.closed_by_supervisor = False
        self.arrives_ns = 0
        """When the last frame sent to the client arrives."""


class SimulatedConnections:
    """The connections port of one supervisor's lifetime."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._world = machine.world
        self._links: dict[int, Link] = {}
        self._ids = itertools.count(1)
        self._reader = FrameReader(decode_answer)

    def connect(self, peer: "Peer") -> Link:
        link = Link(next(self._ids), peer)
        self._links[link.connection_id] = link
        return link

    @property
    def is_ready(self) -> bool:
        return any(
            not link.kept and (link.to_supervisor or link.closed_by_client) for link in self._links.values()
        )

    @property
    def keeps_any(self) -> bool:
        return any(link.kept for link in self._links.values())

    @property
    def has_unread(self) -> bool:
        return False  # what is left makes `is_ready` true

    def keep(self, frames: list[ClientSpoke]) -> None:
        for spoke in reversed(frames):
            link = self._links.get(spoke.connection_id)
            if link is not None and not link.closed_by_supervisor:
                link.kept.appendleft(spoke.frame)

    def take_events(self) -> list[ClientSpoke | ClientClosed]:
        events: list[ClientSpoke | ClientClosed] = []
        links = list(self._links.values())
        self._world.rng.shuffle(links)
        for link in links:
            if link.closed_by_client and not (link.kept or link.to_supervisor):
                del self._links[link.connection_id]
                self._machine.model.told.receiver_gone(link.connection_id)
                events.append(ClientClosed(link.connection_id))
            waited = bool(link.kept)
            while link.kept:
                events.append(ClientSpoke(link.connection_id, link.kept.popleft()))
            while link.to_supervisor and not waited:
                frame = link.to_supervisor.popleft()
                if isinstance(frame.header, AbandonReceiving):
                    self._machine.model.told.receiver_interrupted(link.connection_id, frame.header.request)
                events.append(ClientSpoke(link.connection_id, frame))
                if self._world.chance(self._machine.faults.read_in_parts):
                    break
        return events

    def send(self, connection_id: int, data: bytes) -> None:
        self._machine.sending()
        link = self._links.get(connection_id)
        if link is None:
            return
        for frame in self._reader.feed(data):
            if not isinstance(frame.header, Welcome):
                self._world.note(f"to client {link.peer.name}: {frame.header}")
            link.peer.is_told(connection_id, frame.header)
            self._deliver(link, frame.header)

    def _deliver(self, link: Link, frame: ToClient) -> None:
        arrives_ns = self._world.now_ns + self._world.rng.randrange(10_000, 500_000)
        link.arrives_ns = max(link.arrives_ns, arrives_ns)
        self._world.at(link.arrives_ns, lambda: link.peer.receive(link, frame))

    def close(self, connection_id: int) -> None:
        link = self._links.get(connection_id)
        if link is not None:
            link.closed_by_supervisor = True

    def end(self) -> None:
        """The supervisor has died. What it has sent still arrives."""
        for link in self._links.values():
            self._lose(link)
        self._links.clear()

    def _lose(self, link: Link) -> None:
        self._world.at(max(link.arrives_ns, self._world.now_ns) + 1000, lambda: link.peer.lost(link))
