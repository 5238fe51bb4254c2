"""The supervisor's process: lock, journal, pool, connections, signals; then the loop.

Started in two ways. `durable-bus serve` *is* this process. `run` and `bus.running` spawn it with an inherited
socketpair (`python -m durable_bus.daemon`), and it ends when that client does. It never imports the app:
workers do.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durable_bus import __version__
from durable_bus.channel import encode
from durable_bus.clock import SystemClock
from durable_bus.connections import SocketConnections, bind_socket, socket_path
from durable_bus.errors import DurableBusError, JournalError, JournalUnreachable
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
    items_per_worker_max: int | None = None
    retain_ms: int | None = None
    socket: Path | None = None
    """Where a daemon listens; None: beside the journal."""


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
        check_folder(config.journal)
        connections.listen(bind_socket(config.socket or socket_path(config.journal)))
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
            items_per_worker_max=config.items_per_worker_max,
            retain_ms=config.retain_ms,
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
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    reactor.note_signals(names, supervisor.signals)
    try:
        supervisor.start()
        if parent is None:
            tell_service_manager("READY=1")
        supervisor.run()
    finally:
        pool.close()
        connections.close_all()
        journal.close()
        lock.release()
        log.close()
    return 0


def check_folder(journal: Path) -> None:
    """Refuse a folder in which somebody else could put another journal, lock or socket in our place."""
    folder = Path(os.path.realpath(journal)).parent
    facts = folder.stat()
    everybody_writes = facts.st_mode & stat.S_IWOTH and not facts.st_mode & stat.S_ISVTX
    if facts.st_uid not in (os.geteuid(), 0) or everybody_writes:
        raise JournalUnreachable(f"the folder {folder} belongs to somebody else or everybody may write to it")


def tell_service_manager(state: str) -> None:
    """Tell systemd, when it asks to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(state.encode(), address)


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
