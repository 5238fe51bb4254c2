"""`dask:ADDRESS`: batches are tasks of a dask cluster that runs already.

What distributed 2026.8 does, as seen with real schedulers and workers:

- A worker that is killed: the scheduler runs its tasks again elsewhere, up to three times, and says
  nothing. No client can turn that off (`retries=0` is about exceptions). The fourth death is `KilledWorker`.
  It is counted for each task that was assigned to the worker, so one that only waited there can be blamed,
  too.
- The scheduler is killed: all futures are cancelled within 0.1 s, and the client's status is "connecting".
  It connects again when there is a scheduler at the same address, which knows nothing of earlier tasks.
  Workers end with the scheduler; who restarts it must restart them.
- A cancelled task: its future is cancelled at once, queued or running. A function that runs goes on to its
  end, and its thread of the worker is busy until then.
- Futures never become *running*.
- A client that vanishes: the scheduler forgets its tasks, and what runs goes on to its end.
- Schedulers and workers keep the last 1,000 messages of a connection, with the batches in them. That is their
  `distributed.admin.low-level-log-length`; ours is set here.
"""

import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

import dask.config
from distributed import Client

from durable_bus.engines.engine import Call, CountsAhead, EngineGone, Fate
from durable_bus.errors import EngineError, said
from durable_bus.wire.engine_errors import engine_says

__all__ = ["DaskEngine"]

_CONNECT_S = 30
_WORKERS_S = 30
_CLOSE_S = 1.5
_LOOK_S = 2
_CONFIG = {
    # It warns of tasks of 10 MB, for those who could keep data on the cluster. We could not.
    "distributed.admin.large-graph-warning-threshold": "1 GiB",
    # A connection keeps the last 1,000 messages, for debugging: so many batches, with all their payloads.
    "distributed.admin.low-level-log-length": 1,
}


class DaskEngine(CountsAhead):
    """An Engine on a cluster. It never starts a scheduler or a worker, nor ends one, which may run tasks of
    others.
    """

    def __init__(self, name: str, address: str, prepare: Call) -> None:
        """Connect. Raises EngineError when no scheduler answers within 30 s, or it has no worker 30 s
        later.
        """
        logging.getLogger("distributed").setLevel(logging.WARNING)
        # A lost scheduler is a traceback to it. It is said here, by `is_alive` and by EngineError.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        dask.config.set(_CONFIG)
        self.name = name
        self._is_gone = False
        self._client = _connect(name, address)
        self.capacity: int = sum(self._client.nthreads().values())
        # Those that are there. Later ones import the app with their first batch: a plugin would see to that,
        # but would stay on the cluster when we are gone, and keep workers out that do not have this package.
        function, *arguments = prepare
        self._client.run(function, *arguments, on_error="ignore")
        # pure=False: else a batch that is sent again has the same key, and its first answer is given again.
        self._executor = self._client.get_executor(pure=False, retries=0)

    def submit(self, function: Callable[..., Any], *args: Any) -> "concurrent.futures.Future[Any]":
        """Make it a task. The executor's coroutine holds the task's future, which the scheduler needs to
        keep it.
        """
        if not self._is_connected():
            raise EngineGone(f"{self.name}: the scheduler is gone")
        try:
            future: concurrent.futures.Future[Any] = self._executor.submit(function, *args)
        except (RuntimeError, OSError) as error:  # the client was closed meanwhile
            raise EngineGone(f"{self.name}: {said(error)}") from error
        return future

    def fate(self, error: BaseException) -> Fate:
        """KilledWorker makes a suspect. What was cancelled comes back, alone or with the whole engine.
        So does what a broken connection has kept from us, before the client says that the scheduler is lost.
        """
        if not self._is_connected():
            return Fate.GONE
        return Fate.RETURNED if isinstance(error, OSError) else super().fate(error)

    def _is_connected(self) -> bool:
        """Once the scheduler is lost, it is always lost: the one with which the client connects again knows
        of no task of before.
        """
        if self._client.status != "running":
            self._is_gone = True
        return not self._is_gone

    def is_alive(self) -> bool:
        """Whether the client has not lost the scheduler yet. Counts the threads of the workers, too."""
        if self._is_connected():
            with contextlib.suppress(Exception):  # no answer now: the next look, or `status`, tells more
                found = self._client.sync(
                    self._client.scheduler.ncores, workers=None, callback_timeout=_LOOK_S
                )
                self.capacity = sum(found.values())
        return self._is_connected()

    def close(self) -> None:
        """Leave the cluster. A scheduler that does not answer is left without a word."""
        self._is_gone = True
        thread = threading.Thread(target=self._leave, name="engine close", daemon=True)
        thread.start()
        thread.join(_CLOSE_S)

    def _leave(self) -> None:
        try:
            self._executor.shutdown(wait=False)
            self._client.close(timeout=1)
        except Exception:
            pass  # the scheduler is gone, or hangs: there is nothing to be left


def _connect(name: str, address: str) -> Any:
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False, name="durable-bus")
    except (OSError, ValueError, ImportError) as error:  # nobody there, no address, no such protocol
        raise EngineError(engine_says(name, f"no scheduler answers: {said(error)}")) from error
    try:
        client.wait_for_workers(1, timeout=_WORKERS_S)
    except Exception as error:  # TimeoutError, or whatever ends the connection meanwhile
        client.close(timeout=1)
        raise EngineError(engine_says(name, f"the scheduler has no worker: {said(error)}")) from error
    return client
