"""A supervisor of our own: started for one client, and ended with it.

What it takes to start one is little. All that its client needs is imported when that is asked for: the
supervisor boots meanwhile.
"""

import contextlib
import importlib
import os
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from durable_bus.errors import UsageError
from durable_bus.payloads.messages import check_name, is_seconds
from durable_bus.payloads.settings import DURABILITIES, AppSpec
from durable_bus.wire.cores import usable_cores
from durable_bus.wire.spawning import (
    EngineSpec,
    SupervisorArguments,
    refuse_inside_handler,
    spawn,
    take_closed_places,
)

if TYPE_CHECKING:
    import subprocess

    from durable_bus.app.bus import Bus
    from durable_bus.client.client import Client

__all__ = [
    "OwnSupervisor",
    "check_workers",
    "engine_spec",
    "open_client",
    "running",
    "spawn_supervisor",
]


def spawn_supervisor(
    app: AppSpec,
    app_name: str,
    journal: Path,
    workers: int,
    *,
    durability: str = "full",
    grace_s: float = 10.0,
    uses_memos: bool = True,
    one_job: bool = False,
    engine: EngineSpec | None = None,
) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """A supervisor process of our own, that ends when we do, and our end of the socket to it."""
    take_closed_places()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    arguments = SupervisorArguments(
        fd=theirs.fileno(),
        parent_pid=os.getpid(),
        journal=str(journal),
        app=app,
        app_name=app_name,
        workers=workers,
        durability=durability,
        grace_s=grace_s,
        uses_memos=uses_memos,
        one_job=one_job,
        engine=engine,
    )
    # Ctrl-C reaches the whole foreground group: the supervisor is born with SIGINT blocked, and ignores it
    # then.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = spawn("durable_bus.supervisor", arguments, [theirs.fileno()])
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return process, ours


@contextlib.contextmanager
def running(
    bus: "Bus",
    journal: str | os.PathLike[str] = "journal.db",
    workers: int | None = None,
    *,
    grace: float = 10.0,
    **options: Any,
) -> "Iterator[Client]":
    """See `Bus.running`."""
    from durable_bus.app.finding import app_spec

    path = Path(journal)
    refuse_inside_handler(path)
    with open_client(app_spec(bus), bus.name, path, workers, grace_s=grace, **options) as client:
        yield client


def check_workers(workers: int | None, name: str = "workers") -> int:
    """How many there are to be; None: as many as there are usable cores. Raises UsageError."""
    count = workers if workers is not None else usable_cores()
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UsageError(f"{name}={workers!r:.100} is not a whole number of at least 1")
    return count


def engine_spec(engine: str | None, places: int | None, workers: int | None) -> EngineSpec | None:
    """Where items are to run, as `Bus.running` is told. Raises UsageError."""
    if engine is None or engine == "local":
        if places is not None:
            raise UsageError("engine_workers needs an engine; workers says how many processes there are")
        return None
    if not isinstance(engine, str):
        raise UsageError(f"engine={engine!r:.100} is not a text such as 'process:4'")
    if workers is not None:
        raise UsageError("give either workers or an engine; engine_workers says how many batches that holds")
    check: Any = importlib.import_module("durable_bus.engines.executors").check_spec
    check(engine)
    return EngineSpec(engine, None if places is None else check_workers(places, "engine_workers"))


class OwnSupervisor:
    """A supervisor of our own, with its options. It touches nothing before a client speaks to it, so it may
    be started while it is not known yet whether there is anything to do.
    """

    def __init__(
        self, app: AppSpec, app_name: str, journal: Path, workers: int | None, **options: Any
    ) -> None:
        """`options`: `durability`, `grace_s`, `uses_memos` (whether answers are given again to equal items),
        `one_job` (whether its client does one thing and ends), `engine` and `engine_workers`.
        """
        self._journal = journal
        self._spawn = partial(_spawn_checked, app, app_name, journal, workers, **options)
        self._spawned: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._pid = os.getpid()

    def start(self) -> int:
        """Start it, unless it is; its pid. Raises UsageError, before there is a process."""
        if self._spawned is None:
            self._spawned = self._spawn()
        return self._spawned[0].pid

    def start_ahead(self) -> None:
        """Start it where there is no journal, so that there must be something to do. Raises UsageError."""
        if not self._journal.exists():
            self.start()

    def client(self, name: str | None = None) -> "Client":
        """The client that it works for, and that ends it; started if it is not yet. The next one has another
        process. Raises UsageError, and what a start with this journal raises.
        """
        process, connection = self._spawned or self._spawn()
        self._spawned = None
        from durable_bus.client.client import Client
        from durable_bus.client.session import Session

        return Client(self._journal, name=name, _session=Session(self._journal, name, connection, process))

    def close(self) -> None:
        """End one that never had a client; in a process that was forked since, it is not ours to end."""
        if self._spawned is not None:
            process, connection = self._spawned
            connection.close()
            if self._pid == os.getpid():
                process.kill()
                process.wait()
            else:
                process.returncode = 0  # as in `Session.after_fork`


def _spawn_checked(
    app: AppSpec,
    app_name: str,
    journal: Path,
    workers: int | None,
    *,
    durability: str = "full",
    grace_s: float = 10.0,
    uses_memos: bool = True,
    one_job: bool = False,
    engine: str | None = None,
    engine_workers: int | None = None,
) -> "tuple[subprocess.Popen[bytes], socket.socket]":
    """As `spawn_supervisor`, with what users say. Raises UsageError."""
    spec = engine_spec(engine, engine_workers, workers)
    count = check_workers(workers) if spec is None else 1
    if durability not in list(DURABILITIES):
        raise UsageError(f"durability={durability!r:.100} is not {' or '.join(map(repr, DURABILITIES))}")
    if not is_seconds(grace_s):
        raise UsageError(f"grace={grace_s!r:.100} is not a number of seconds of at least 0")
    return spawn_supervisor(
        app,
        app_name,
        journal,
        count,
        durability=durability,
        grace_s=float(grace_s),
        uses_memos=uses_memos,
        one_job=one_job,
        engine=spec,
    )


def open_client(
    app: AppSpec,
    app_name: str,
    journal: Path,
    workers: int | None,
    *,
    name: str | None = None,
    **options: Any,
) -> "Client":
    """A client with a supervisor of its own, which takes the options of `OwnSupervisor`. Raises
    UsageError, before one is started.
    """
    if name is not None:
        check_name(name, "client")
    return OwnSupervisor(app, app_name, journal, workers, **options).client(name)
