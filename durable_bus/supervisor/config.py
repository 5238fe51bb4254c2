"""What a supervisor is told at its start."""

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from durable_bus import __version__
from durable_bus.payloads.settings import AppSpec
from durable_bus.wire.framing import FRAME_BYTES_MAX
from durable_bus.wire.socket_file import socket_path
from durable_bus.wire.spawning import EngineSpec

__all__ = ["DaemonConfig", "Limits", "Parent", "SupervisorConfig"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorConfig:
    """What the loop needs to know."""

    app_name: str
    workers: int
    pid: int = field(default_factory=os.getpid)
    version: str = __version__
    grace_s: float = 10.0
    items_per_worker_max: int | None = None
    """A worker that was given this many is replaced by a fresh one; None: never."""
    retain_ms: int | None = None
    """Buffers that ended this long ago are pruned; None: never."""
    receiving_timeout_ms: int = 10 * 60 * 1000
    """A buffer whose client has vanished is given up this long after its last chunk."""
    housekeeping_s: float = 10.0
    engine: EngineSpec | None = None
    """Where items run; the workers get messages only. None: in the workers."""
    uses_memos: bool = True
    """Whether answers are given again to equal items (`memo`)."""
    one_job: bool = False
    """Its client does one thing and ends: nobody waits behind a batch."""
    journal: Path | None = None
    journal_file: list[int] | None = None
    """`socket_file.journal_file` of the journal; a client that means another is refused. None: nobody is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig(SupervisorConfig):
    """How a supervisor's process is to be run."""

    journal: Path
    app: AppSpec
    durability: str = "full"
    log_format: str = "text"
    verbose: bool = True
    socket: Path | None = None
    """Where a daemon listens; None: beside the journal."""
    limits: Limits = field(default_factory=Limits)

    def socket_path(self, journal: Path) -> Path:
        """Where it listens. `journal`: its journal, by the name that counts."""
        return socket_path(journal) if self.socket is None else Path(os.path.abspath(self.socket))


class Parent(NamedTuple):
    """The client that this process was started for: our end of the socket to it, and the descriptor that says
    when it has ended (`process_end`).

    The end of the socket does not tell of its death when it has forked: the child holds the other end, too.
    """

    connection: "socket.socket"
    end_fd: int
