"""The supervisor's process: lock, journal, pool, connections, signals; then the loop.

Started in two ways. `durable-bus serve` *is* this process. `run` and `bus.running` spawn it with an inherited
socketpair (`python -m durable_bus.daemon`), and it ends when that client does. It never imports the app:
workers do.
"""

import json
import os
import secrets
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durable_bus import __version__
from durable_bus.channel import encode
from durable_bus.clock import SystemClock
from durable_bus.connections import SocketConnections, bind_socket, socket_path
from durable_bus.errors import DurableBusError, JournalError
from durable_bus.journal.journal import Journal
from durable_bus.lock import JournalLock
from durable_bus.logs import Log
from durable_bus.reactor import SelectorReactor
from durable_bus.supervisor import Supervisor, SupervisorConfig
from durable_bus.worker_pool import WorkerPool

__all__ = ["DaemonConfig", "main", "supervise"]


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """How a supervisor is to be run."""

    journal: Path
    app: dict[str, Any]
    app_name: str
    workers: int
    durability: str = "full"
    grace_s: float = 10.0
    log_format: str = "text"
    verbose: bool = True


def supervise(config: DaemonConfig, parent: socket.socket | None) -> int:
    """Own the journal until asked to stop. `parent`: the client this process was started for, None for a
    daemon.

    Raises JournalLocked, or another JournalError, when the journal cannot be had.
    """
    log = Log(log_format=config.log_format, quiet=not config.verbose)
    clock = SystemClock()
    lock = JournalLock(config.journal)
    journal = Journal.open(Path(os.path.realpath(config.journal)), config.durability)
    reactor = SelectorReactor()
    connections = SocketConnections(reactor, lambda: clock.monotonic_ns() / 1e9)
    if parent is None:
        connections.listen(bind_socket(socket_path(config.journal)))
    else:
        connections.add_parent(parent)
    pool = WorkerPool(reactor, config.app, config.journal)
    supervisor = Supervisor(
        SupervisorConfig(
            app_name=config.app_name,
            pid=os.getpid(),
            version=__version__,
            workers=config.workers,
            grace_s=config.grace_s,
            embedded=parent is not None,
        ),
        journal,
        pool,
        connections,
        reactor,
        clock,
        lambda: secrets.token_hex(16),
        log,
    )
    names: dict[signal.Signals, str] = {
        signal.SIGTERM: "stop",
        signal.SIGINT: "stop",
        signal.SIGHUP: "reload",
    }
    if parent is not None:
        # Ctrl-C reaches the whole foreground group; what it means is the client's to say.
        names = {signal.SIGTERM: "stop"}
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    reactor.note_signals(names, supervisor.signals)
    try:
        supervisor.run()
    finally:
        pool.close()
        connections.close_all()
        journal.close()
        lock.release()
        log.close()
    return 0


def main(argument: str) -> int:
    """An embedded supervisor. `argument`: JSON of the socket's descriptor and the config."""
    options = json.loads(argument)
    parent = socket.socket(fileno=options.pop("fd"))
    parent.set_inheritable(False)
    config = DaemonConfig(**{**options, "journal": Path(options["journal"])})
    try:
        return supervise(config, parent)
    except (DurableBusError, OSError) as error:
        kind = type(error).__name__ if isinstance(error, DurableBusError) else "StorageFailed"
        refusal = {
            "k": "fatal",
            "type": kind,
            "message": str(error),
            "holder_pid": getattr(error, "holder_pid", None),
        }
        try:
            parent.setblocking(True)
            parent.sendall(encode(refusal))
        except OSError:
            pass  # the client is gone too
        return error.exit_code if isinstance(error, JournalError) else 5


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
