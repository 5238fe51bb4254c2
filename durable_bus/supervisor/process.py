"""The supervisor's process: first workers, then all the rest (`serving`).

Started in two ways. `durable-bus serve` *is* this process. `run` and `bus.running` spawn it with an inherited
socketpair (`python -m durable_bus.supervisor`), and it ends when that client does. It never imports
the app: workers do.

What is imported here is what it takes to start workers. They boot while this process imports the rest of
itself, and import the app once it has the journal's lock.
"""

import contextlib
import os
import select
import signal
import socket
import stat
from pathlib import Path

from durable_bus.errors import DurableBusError, JournalError, JournalUnreachable, said
from durable_bus.journal.access import real_path, refuse_folder_of_everybody, refuse_owner
from durable_bus.journal.lock import JournalLock
from durable_bus.supervisor.config import DaemonConfig, Parent
from durable_bus.supervisor.io.systemd import Systemd
from durable_bus.supervisor.io.worker_start import WorkerStarter
from durable_bus.wire.cores import usable_cores
from durable_bus.wire.framing import encode
from durable_bus.wire.imports import to_stay
from durable_bus.wire.process_end import watch_end
from durable_bus.wire.spawning import SupervisorArguments

__all__ = ["DaemonConfig", "check_access", "main", "supervise"]

LAST_WORDS_S = 5.0
"""How long the client of an embedded supervisor may take to read why that has ended."""


def supervise(config: DaemonConfig, parent: Parent | None) -> int:
    """Own the journal until asked to stop. `parent`: the client this process was started for, None for a
    daemon.

    Raises a JournalError when the journal cannot be had.
    """
    with contextlib.ExitStack() as cleanup:
        # Before workers are started: what systemd has told us is not for them.
        manager = Systemd.of(os.environ) if parent is None else None
        if manager is not None:
            cleanup.callback(manager.close)
        json_log = config.verbose and config.log_format == "json"
        if parent is None:
            check_access(config)
            lock = _locked(config.journal, cleanup)  # who is refused starts nobody
        starter = WorkerStarter(config.app, config.journal, config.engine, json_log=json_log)
        cleanup.callback(starter.close)
        # One core is for us and our client, or the first worker has to wait for us. The others come later.
        starter.start_ahead(max(1, min(config.workers, usable_cores() - 1)))
        with to_stay():
            from durable_bus.supervisor.serving import serve
        if parent is not None:
            if not _is_spoken_to(parent):
                return 0  # nobody is left to work for
            lock = _locked(config.journal, cleanup)
        starter.let_go()
        serve(config, parent, lock, starter, manager)
    return 0


def _locked(journal: Path, cleanup: contextlib.ExitStack) -> JournalLock:
    lock = JournalLock(journal)
    cleanup.callback(lock.release)
    return lock


def check_access(config: DaemonConfig) -> None:
    """Whom a daemon's clients find at its socket must be the daemon: so the folders are to be ours, which is
    more than the journal's writer wants (`journal.access`). Raises JournalUnreachable.
    """
    journal = real_path(config.journal)
    sockets = config.socket_path(journal)
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
    # Ctrl-C reaches the whole foreground group; what it means is the client's to say. Workers inherit this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # Whatever ends the supervisor, it closes its connections first, and we have something to say after that.
    with socket.socket(fileno=arguments.fd) as connection, connection.dup() as last_words:
        connection.set_inheritable(False)
        end_fd = _end_of_parent(arguments.parent_pid)
        if end_fd is None:
            return 0
        config = DaemonConfig(
            journal=Path(arguments.journal),
            app=arguments.app,
            app_name=arguments.app_name,
            workers=arguments.workers,
            durability=arguments.durability,
            grace_s=arguments.grace_s,
            uses_memos=arguments.uses_memos,
            one_job=arguments.one_job,
            engine=arguments.engine,
            verbose=False,
        )
        try:
            return supervise(config, Parent(connection, end_fd))
        except (DurableBusError, OSError) as error:
            from durable_bus.wire.protocol import Fatal

            kind = type(error).__name__ if isinstance(error, DurableBusError) else "StorageFailed"
            refusal = Fatal(kind, said(error), getattr(error, "holder_pid", None))
            try:
                last_words.settimeout(LAST_WORDS_S)
                last_words.sendall(encode(refusal))
            except OSError:
                pass  # the client is gone too, or does not read
            return error.exit_code if isinstance(error, JournalError) else 5


def _is_spoken_to(parent: Parent) -> bool:
    """Wait for the client to say something; False when it has gone without. Before that the journal is not
    ours to touch, nor the app: the client may have started us while it looks whether there is anything to do.
    """
    waiting = select.poll()
    for fd in (parent.connection.fileno(), parent.end_fd):
        waiting.register(fd, select.POLLIN)
    waiting.poll()
    try:
        return bool(parent.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except (BlockingIOError, ConnectionResetError):
        return False


def _end_of_parent(parent_pid: int) -> int | None:
    """None when it has gone: a pid is nobody else's as long as its process is our parent."""
    try:
        end_fd = watch_end(parent_pid)
    except ProcessLookupError:
        return None
    return end_fd if os.getppid() == parent_pid else None
