"""Listeners under limits, which do what their item says: a list of steps, such as
[["spend", {"usd": 1}], ["gate", "/a/file"], ["after", 30, "api"]]. All sync; `pacing_async` has the same
listeners with coroutines.
"""

import copy
import os
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from durable_bus import Bus, HandlerMetadata, RetryAfter
from durable_bus.errors import UsageError

from .plain import log_run

Steps = list[list[Any]]


class Busy(RetryAfter):
    """A subclass of a user's own."""


class Silent(RetryAfter):
    """One that leaves out our __init__."""

    def __init__(self) -> None:
        pass


ERRORS: dict[str, type[BaseException]] = {
    "ValueError": ValueError,
    "KeyError": KeyError,
    "FileNotFoundError": FileNotFoundError,
    "SystemExit": SystemExit,
}


def declare_limits(bus: Bus) -> Bus:
    bus.limit("api", rate="1000/s", running=50, adaptive=True)
    bus.limit("disk", running=5)
    return bus


def gates(steps: Steps, metadata: HandlerMetadata) -> Iterator[str]:
    """Take the steps. Yields the file to wait for."""
    log_run(metadata.index, metadata.own_name)
    for what, *given in steps:
        if what == "gate":
            yield given[0]
        elif what == "spend":
            metadata.spend(**given[0])
        elif what == "after":
            raise RetryAfter(*given)
        elif what == "after, unless":
            door, *told = given
            if not os.path.exists(door):
                raise RetryAfter(*told)
        elif what == "busy":
            raise Busy(*given)
        elif what == "silent":
            raise Silent
        elif what == "raise":
            raise ERRORS[given[0]]("no")
        elif what == "in a thread":
            run_thread(lambda given=given: metadata.spend(**given[0])).join()
        elif what == "later":
            run_thread(lambda given=given: spend_later(metadata, *map(Path, given)))


def run_thread(target: Any) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def spend_later(metadata: HandlerMetadata, door: Path, told: Path) -> None:
    """When the door is there; what comes of it is told in a file, whole."""
    while not door.exists():
        time.sleep(0.005)
    try:
        metadata.spend(usd=1)
        said = "spent"
    except UsageError as error:
        said = str(error)
    part = told.with_suffix(".part")
    part.write_text(said)
    part.rename(told)


def refused(metadata: HandlerMetadata) -> str:
    try:
        metadata.spend(usd=1)
    except UsageError as error:
        return str(error)
    return "spent"


def elsewhere(metadata: HandlerMetadata) -> list[str]:
    """What a copy that another process has says, and a process that was forked."""
    copied = copy.deepcopy(metadata)
    copied.spend(usd=2)
    read_fd, write_fd = os.pipe()
    if os.fork() == 0:
        os.write(write_fd, refused(metadata).encode())
        os._exit(0)
    os.close(write_fd)
    in_child = os.read(read_fd, 1000).decode()
    os.close(read_fd)
    os.wait()
    return [refused(pickle.loads(pickle.dumps(metadata))), in_child]


def wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)


bus = declare_limits(Bus("pacing"))


@bus.listener("ask", limits=["api", "disk"])
def ask(steps: Steps, metadata: HandlerMetadata) -> str:
    for gate in gates(steps, metadata):
        wait_for(gate)
    return "done"


@bus.listener("store", limits=["disk"])
def store(steps: Steps, metadata: HandlerMetadata) -> str:
    return ask(steps, metadata)


@bus.listener("free")
def free(steps: Steps, metadata: HandlerMetadata) -> str:
    return ask(steps, metadata)


@bus.listener("picky", attempts=3, retry_on=(OSError, KeyError))
def picky(steps: Steps, metadata: HandlerMetadata) -> Any:
    ask(steps, metadata)
    return {1, 2} if steps == [["answer a set"]] else None


@bus.listener("impatient", timeout=0.5, attempts=2, retry_on=KeyError)
def impatient(steps: Steps, metadata: HandlerMetadata) -> str:
    return ask(steps, metadata)


@bus.listener("elsewhere")
def spends_elsewhere(text: str, metadata: HandlerMetadata) -> list[str]:
    return elsewhere(metadata)


@bus.listener("bare", limits=["api"])
def bare(text: str) -> str:
    if text == "after":
        raise RetryAfter(3600, "api")
    return text
