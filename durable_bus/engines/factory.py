"""`MODULE:FACTORY`: any Executor, made by a callable of the user."""

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any

from durable_bus.engines.engine import CountsAhead, EngineGone
from durable_bus.errors import EngineError, said
from durable_bus.wire.cores import usable_cores
from durable_bus.wire.engine_errors import engine_says

__all__ = ["FactoryEngine", "executor_capacity"]


def executor_capacity(executor: concurrent.futures.Executor) -> int:
    """How many calls it runs at once, where it says so; else as many as there are usable cores."""
    for attribute in ("_max_workers", "max_workers"):
        count = getattr(executor, attribute, None)
        if isinstance(count, int) and count > 0:
            return count
    return usable_cores()


class FactoryEngine(CountsAhead):
    """An Engine on whatever Executor the factory makes; another one is made when that breaks.

    All that a broken one held are suspects: it does not say which of them did it.
    """

    def __init__(self, name: str, factory: Callable[[], Any]) -> None:
        """Raises EngineError when the factory makes no Executor."""
        self.name = name
        self._factory = factory
        self._lock = threading.Lock()
        self._is_closed = False
        self._executor: concurrent.futures.Executor | None = self._make()
        self.capacity = executor_capacity(self._executor)

    def submit(self, function: Callable[..., Any], *args: Any) -> "concurrent.futures.Future[Any]":
        """Hand a batch to the executor; to a new one where the last one is broken."""
        with self._lock:
            if self._is_closed or self._executor is None:
                raise EngineGone(f"{self.name} is closed")
            try:
                return self._executor.submit(function, *args)
            except RuntimeError:  # broken, or shut down: what is refused has never run
                self._end(self._executor)
                self._executor = None
            try:
                self._executor = self._make()
                return self._executor.submit(function, *args)
            except (EngineError, RuntimeError) as error:
                raise EngineGone(said(error)) from error

    def is_alive(self) -> bool:
        """Whether there is an executor, or the hope that the factory makes one."""
        return not self._is_closed and self._executor is not None

    def close(self) -> None:
        """Shut the executor down without waiting, and kill its processes where it can."""
        with self._lock:
            self._is_closed = True
            if self._executor is not None:
                self._end(self._executor)
                self._executor = None

    def _make(self) -> concurrent.futures.Executor:
        try:
            executor = self._factory()
        except Exception as error:
            raise EngineError(
                engine_says(self.name, f"the factory raised {type(error).__name__}: {said(error)}")
            ) from error
        if not isinstance(executor, concurrent.futures.Executor):
            raise EngineError(
                engine_says(
                    self.name,
                    f"the factory returned a {type(executor).__name__}, not a concurrent.futures.Executor",
                )
            )
        return executor

    @staticmethod
    def _end(executor: concurrent.futures.Executor) -> None:
        # Processes that run something would live on; before Python 3.14 they are found in a private table.
        processes = list((getattr(executor, "_processes", None) or {}).values())
        try:
            executor.shutdown(wait=False, cancel_futures=True)
        except Exception:
            pass  # it is the user's, and broken: there is nobody to tell, and nothing else to be done
        for process in processes:
            if hasattr(process, "kill"):
                process.kill()
