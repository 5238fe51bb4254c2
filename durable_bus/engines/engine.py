"""What an engine is: something that runs batches elsewhere, and says what befell those that did not answer.

The engine process hands a batch to an engine as a function and its arguments, and gets a future. What the
batch answers is the future's result. A future that ends with an exception says nothing of any item: the
batch never answered. `Engine.fate` then says whether the batch may have been the cause.
"""

import concurrent.futures
import enum
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Call", "CountsAhead", "Engine", "EngineGone", "Fate"]


class Fate(enum.Enum):
    """What it means that a batch ended without an answer."""

    LOST = "lost"
    """Its worker may have died of it: the batch is a suspect."""
    RETURNED = "returned"
    """It was surely not its doing: it was cancelled, or refused. It goes back uncharged."""
    GONE = "gone"
    """The engine itself is gone. All that is in flight goes back, and another engine process connects
    again.
    """


class EngineGone(RuntimeError):
    """The engine runs nothing any more: it was closed, or what it runs on has vanished."""


Call = tuple[Callable[..., Any], *tuple[Any, ...]]
"""A function that can be imported, and arguments that can be pickled."""


class Engine(Protocol):
    """Runs batches. Any thread may call any method."""

    grace_s: float
    """How much later than its time-out a batch is late: a worker that is new to the app imports it first,
    where the engine cannot have that done before.
    """

    name: str
    """The spec as the user gave it, such as ``dask:tcp://127.0.0.1:8786``; for views and messages."""
    capacity: int
    """How many batches it runs at once now; 0: none of its workers is there. `is_alive` may change it."""

    def submit(self, function: Callable[..., Any], *args: Any) -> "concurrent.futures.Future[Any]":
        """Run a function that can be imported, with arguments that can be pickled. Raises EngineGone."""

    def fate(self, error: BaseException) -> Fate:
        """What the exception of a future means, or one that `submit` raised."""

    def has_begun(self, future: "concurrent.futures.Future[Any]", ahead: int) -> bool:
        """Whether a worker may run it by now. `ahead`: how many that came before it have not ended."""

    def abandon(self, future: "concurrent.futures.Future[Any]") -> None:
        """The batch is late: cancel it, and kill the process that runs it where that hurts no other batch.

        The future may end afterwards or not, and with any exception: nobody waits for it.
        """

    def is_alive(self) -> bool:
        """Whether batches still have a chance. Cheap: it is asked about once a second."""

    def close(self) -> None:
        """Cancel what waits, kill what runs. Takes two seconds at most, may be called twice, never raises."""


class CountsAhead:
    """What engines have alike that say of no future that it runs, and kill no worker for a late batch."""

    grace_s = 10.0
    capacity: int

    def has_begun(self, future: "concurrent.futures.Future[Any]", ahead: int) -> bool:
        """Whether those ahead of it leave it a worker."""
        return ahead < self.capacity

    def fate(self, error: BaseException) -> Fate:
        """What was cancelled comes back. Any other batch is a suspect: what ran it says no more."""
        if isinstance(error, EngineGone):
            return Fate.GONE
        return Fate.RETURNED if isinstance(error, concurrent.futures.CancelledError) else Fate.LOST

    def abandon(self, future: "concurrent.futures.Future[Any]") -> None:
        """Cancel it where it waits. What runs goes on, and keeps its worker to its end."""
        future.cancel()
