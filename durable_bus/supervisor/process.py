"""The supervisor's process: lock, journal, pool, connections, signals; then the loop.

Started in two ways. `durable-bus serve` *is* this process. `run` and `bus.running` spawn it with an inherited
socketpair (`python -m durable_bus.supervisor`), and it ends when that client does. It never imports
the app: workers do.
"""

import contextlib
import dataclasses
import os
import signal
import socket
import stat
from pathlib import Path
from typing import NamedTuple

from durable_bus.errors import DurableBusError, JournalError, JournalUnreachable, said
from durable_bus.journal.access import real_path, refuse_folder_of_everybody, refuse_owner
from durable_bus.journal.completeness import refuse_incomplete
from durable_bus.journal.journal import Journal
from durable_bus.journal.lock import JournalLock, noted_commit
from durable_bus.payloads.settings import AppSpec
from durable_bus.supervisor.context import Ports, SupervisorConfig
from durable_bus.supervisor.io.client_sockets import Limits, SocketConnections
from durable_bus.supervisor.io.clock import SystemClock
from durable_bus.supervisor.io.log import Log
from durable_bus.supervisor.io.reactor import SelectorReactor
from durable_bus.supervisor.io.systemd import Systemd
from durable_bus.supervisor.io.worker_processes import WorkerPool
from durable_bus.supervisor.loop import Supervisor
from durable_bus.supervisor.ports import Unmanaged
from durable_bus.wire.framing import encode
from durable_bus.wire.ids import new_id
from durable_bus.wire.protocol import Fatal
from durable_bus.wire.socket_file import bind_socket, journal_file, socket_path, unlink_socket
from durable_bus.wire.spawning import SupervisorArguments

__all__ = ["DaemonConfig", "Parent", "main", "supervise"]

LAST_WORDS_S = 5.0
"""How long the client of an embedded supervisor may take to read why that has ended."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig(SupervisorConfig):
    """How a supervisor's process is to be run."""

    journal: Path
    app: AppSpec
    durability: str = "full"
    log_format: str = "text"
    verbose: bool = True
    socket: Path | None = None
    """Where a daemon listens; None: beside the journal."""
    limits: Limits = dataclasses.field(default_factory=Limits)


class Parent(NamedTuple):
    """The client that this process was started for: our end of the socket to it, and its pidfd.

    The end of the socket does not tell of its death when it has forked: the child holds the other end, too.
    """

    connection: socket.socket
    pid_fd: int


def supervise(config: DaemonConfig, parent: Parent | None) -> int:
    """Own the journal until asked to stop. `parent`: the client this process was started for, None for a
    daemon.

    Raises a JournalError when the journal cannot be had.
    """
    with contextlib.ExitStack() as cleanup:
        log = Log(log_format=config.log_format, quiet=not config.verbose)
        cleanup.callback(log.close)
        clock = SystemClock()
        manager = Systemd.of(os.environ) if parent is None else None
        if manager is not None:
            cleanup.callback(manager.close)
        if parent is None:
            check_access(config)
        lock = JournalLock(config.journal)
        cleanup.callback(lock.release)
        journal = _open_journal(config, lock)
        cleanup.callback(journal.close)
        reactor = SelectorReactor()
        connections = SocketConnections(reactor, lambda: clock.monotonic_ns() / 1e9, config.limits, log)
        cleanup.callback(connections.close_all)
        if parent is None:
            _listen(config, connections, lock, cleanup)
        else:
            connections.add_parent(parent.connection, parent.pid_fd)
        json_log = config.verbose and config.log_format == "json"
        pool = WorkerPool(reactor, config.app, config.journal, config.engine, json_log=json_log)
        cleanup.callback(pool.close)
        supervisor = Supervisor(
            dataclasses.replace(config, journal_file=journal_file(config.journal)),
            journal,
            Ports(pool, connections, reactor, clock, new_id, log, manager or Unmanaged()),
        )
        names = {signal.SIGTERM: "stop", signal.SIGINT: "stop", signal.SIGHUP: "reload"}
        if parent is not None:
            # Ctrl-C reaches the whole foreground group; what it means is the client's to say.
            names = {signal.SIGTERM: "stop"}
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        reactor.note_signals(names, supervisor.signals)
        supervisor.start()
        # So that the file alone says that this run has begun: then a copy without its -wal is seen to be one.
        journal.checkpoint()
        if manager is not None:
            manager.ready()
        supervisor.run()
    return 0


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
    path = _socket_path(config, config.journal)
    connections.listen(bind_socket(path))
    cleanup.callback(unlink_socket, path, path.lstat())
    if config.socket is not None:
        lock.note_socket(path)


def _socket_path(config: DaemonConfig, journal: Path) -> Path:
    return socket_path(journal) if config.socket is None else Path(os.path.abspath(config.socket))


def check_access(config: DaemonConfig) -> None:
    """Whom a daemon's clients find at its socket must be the daemon: so the folders are to be ours, which is
    more than the journal's writer wants (`journal.access`). Raises JournalUnreachable.
    """
    journal = real_path(config.journal)
    sockets = _socket_path(config, journal)
    for folder in dict.fromkeys([journal.parent, sockets.parent]):
        try:
            facts = folder.stat()
        except OSError as error:
            raise JournalUnreachable(f"cannot use the folder {folder}: {error.strerror}") from None
        if not stat.S_ISDIR(facts.st_mode):
            raise JournalUnreachable(f"cannot use {folder}: it is not a folder")
        if facts.st_uid not in (os.geteuid(), 0):
            raise JournalUnreachable(f"the folder {folder} belongs to another user (uid {facts.st_uid})")
        refuse_folder_of_everybody(folder)
    with contextlib.suppress(FileNotFoundError, PermissionError):
        refuse_owner(sockets, sockets.lstat())


def main(arguments: SupervisorArguments) -> int:
    """An embedded supervisor."""
    # Whatever ends the supervisor, it closes its connections first, and we have something to say after that.
    with socket.socket(fileno=arguments.fd) as connection, connection.dup() as last_words:
        connection.set_inheritable(False)
        pid_fd = _pidfd_of_parent(arguments.parent_pid)
        if pid_fd is None:
            return 0  # nobody is left to work for
        config = DaemonConfig(
            journal=Path(arguments.journal),
            app=arguments.app,
            app_name=arguments.app_name,
            workers=arguments.workers,
            durability=arguments.durability,
            grace_s=arguments.grace_s,
            uses_memos=arguments.uses_memos,
            engine=arguments.engine,
            verbose=False,
        )
        try:
            return supervise(config, Parent(connection, pid_fd))
        except (DurableBusError, OSError) as error:
            kind = type(error).__name__ if isinstance(error, DurableBusError) else "StorageFailed"
            refusal = Fatal(kind, said(error), getattr(error, "holder_pid", None))
            try:
                last_words.settimeout(LAST_WORDS_S)
                last_words.sendall(encode(refusal))
            except OSError:
                pass  # the client is gone too, or does not read
            return error.exit_code if isinstance(error, JournalError) else 5


def _pidfd_of_parent(parent_pid: int) -> int | None:
    """None when it has gone: a pid is nobody else's as long as its process is our parent."""
    try:
        pid_fd = os.pidfd_open(parent_pid)
    except ProcessLookupError:
        return None
    return pid_fd if os.getppid() == parent_pid else None
