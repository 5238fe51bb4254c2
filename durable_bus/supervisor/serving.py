"""Journal, pool, connections, signals; then the loop. The lock is there, and the first workers boot."""

import contextlib
import dataclasses
import signal

from durable_bus.journal.completeness import refuse_incomplete
from durable_bus.journal.file_system import network_file_system
from durable_bus.journal.journal import Journal
from durable_bus.journal.lock import JournalLock, noted_commit
from durable_bus.supervisor.config import DaemonConfig, Parent
from durable_bus.supervisor.context import Ports
from durable_bus.supervisor.io.client_sockets import SocketConnections
from durable_bus.supervisor.io.clock import SystemClock
from durable_bus.supervisor.io.log import Log
from durable_bus.supervisor.io.reactor import SelectorReactor
from durable_bus.supervisor.io.systemd import Systemd
from durable_bus.supervisor.io.worker_processes import WorkerPool
from durable_bus.supervisor.io.worker_start import WorkerStarter
from durable_bus.supervisor.loop import Supervisor
from durable_bus.supervisor.ports import Unmanaged
from durable_bus.wire.ids import new_id
from durable_bus.wire.memory import keep_freed
from durable_bus.wire.socket_file import bind_socket, journal_file, unlink_socket

__all__ = ["serve"]


def serve(
    config: DaemonConfig,
    parent: Parent | None,
    lock: JournalLock,
    starter: WorkerStarter,
    manager: Systemd | None,
) -> None:
    """As `process.supervise`, from the lock on. It stays the caller's to release."""
    keep_freed()
    with contextlib.ExitStack() as cleanup:
        log = Log(log_format=config.log_format, untold_only=not config.verbose)
        cleanup.callback(log.close)
        if kind := network_file_system(config.journal):
            log("network file system", journal=str(config.journal), kind=kind)
        clock = SystemClock()
        journal = _open_journal(config, lock)
        cleanup.callback(journal.close)
        reactor = SelectorReactor()
        connections = SocketConnections(reactor, lambda: clock.monotonic_ns() / 1e9, config.limits, log)
        cleanup.callback(connections.close_all)
        if parent is None:
            _listen(config, connections, lock, cleanup)
        else:
            connections.add_parent(parent.connection, parent.end_fd)
        pool = WorkerPool(reactor, starter)
        cleanup.callback(pool.close)
        supervisor = Supervisor(
            dataclasses.replace(config, journal_file=journal_file(config.journal)),
            journal,
            Ports(pool, connections, reactor, clock, new_id, log, manager or Unmanaged()),
        )
        names = {signal.SIGTERM: "stop"}
        if parent is None:
            names |= {signal.SIGINT: "stop", signal.SIGHUP: "reload"}
        reactor.note_signals(names, supervisor.signals)
        supervisor.start()
        # So that the file alone says that this run has begun: then a copy without its -wal is seen to be one.
        journal.checkpoint()
        if manager is not None:
            manager.ready()
        supervisor.run()


def _open_journal(config: DaemonConfig, lock: JournalLock) -> Journal:
    """Raises JournalDamaged, before anything is written, when the journal may lack its last commits."""
    path = lock.journal
    refuse_incomplete(path, noted_commit(path))
    journal = Journal.open(path, config.durability)
    survives_power_cut = config.durability == "full"
    lock.begin_to_note(journal.ids.commit, survives_power_cut=survives_power_cut)
    if survives_power_cut:
        journal.note_commit = lock.note_commit
    return journal


def _listen(
    config: DaemonConfig, connections: SocketConnections, lock: JournalLock, cleanup: contextlib.ExitStack
) -> None:
    """If we die in here, the next start replaces the socket: it holds the lock then."""
    path = config.socket_path(config.journal)
    connections.listen(bind_socket(path))
    cleanup.callback(unlink_socket, path, path.lstat())
    if config.socket is not None:
        lock.note_socket(path)
