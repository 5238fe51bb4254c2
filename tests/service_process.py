"""A daemon for the tests, with every option of `DaemonConfig`: python service_process.py '{"journal": …, …}'.

`trace_memory_to`: a file to which it writes, at SIGUSR1, how many bytes Python objects take.
`thread_messages_max`: the limit of that name, so that a conversation comes to it quickly.
`boot_timeout_s`: how long a worker may take to import the app.
`record_frames_to`: a file to which it writes a line for each frame between it and its workers.
`clears_slowly`: a turn deletes as few rows as it ever does, so that a test can see what is left half-way.
"""

import gc
import json
import signal
import sys
import tracemalloc
from pathlib import Path
from typing import Any

from msgspec import convert

from durable_bus.errors import JournalError
from durable_bus.payloads.settings import AppSpec
from durable_bus.supervisor import maintenance as housekeeping
from durable_bus.supervisor.config import Limits
from durable_bus.supervisor.io.worker_processes import WorkerPool
from durable_bus.supervisor.outcomes import threads as thread_registry
from durable_bus.supervisor.ports import WorkerEnded, WorkerSpoke
from durable_bus.supervisor.process import DaemonConfig, supervise
from durable_bus.supervisor.workers import workforce
from durable_bus.wire.decoding import decode_work
from durable_bus.wire.framing import FrameReader
from durable_bus.wire.spawning import EngineSpec


def tell_memory(path: Path) -> None:
    gc.collect()
    beside = path.with_suffix(".new")
    beside.write_text(str(tracemalloc.get_traced_memory()[0]))
    beside.rename(path)


def record_frames(path: Path) -> None:
    """When a frame goes, and when one is taken in."""
    send, take_events = WorkerPool.send, WorkerPool.take_events

    def note(line: str) -> None:
        with open(path, "a") as file:
            file.write(line + "\n")

    def send_and_note(pool: WorkerPool, worker_id: int, data: bytes) -> None:
        for frame in FrameReader(decode_work).feed(data):
            note(f"supervisor worker-{worker_id} {type(frame.header).__name__}")
        send(pool, worker_id, data)

    def take_and_note(pool: WorkerPool) -> list[WorkerSpoke | WorkerEnded]:
        events = take_events(pool)
        for event in events:
            if isinstance(event, WorkerSpoke):
                note(f"worker-{event.worker_id} supervisor {type(event.frame.header).__name__}")
        return events

    WorkerPool.send = send_and_note  # type: ignore[method-assign]
    WorkerPool.take_events = take_and_note  # type: ignore[method-assign]


def main(options: dict[str, Any]) -> int:
    options["journal"] = Path(options["journal"])
    options["app"] = convert(options["app"], AppSpec)
    if engine := options.pop("engine", None):
        options["engine"] = convert(engine, EngineSpec)
    options["limits"] = Limits(**options.pop("limits", {}))
    if options.get("socket"):
        options["socket"] = Path(options["socket"])
    if options.pop("clears_slowly", False):
        housekeeping._STEP_NS = 0
    thread_registry.THREAD_MESSAGES_MAX = options.pop(
        "thread_messages_max", thread_registry.THREAD_MESSAGES_MAX
    )
    workforce.BOOT_TIMEOUT_S = options.pop("boot_timeout_s", workforce.BOOT_TIMEOUT_S)
    if record := options.pop("record_frames_to", None):
        record_frames(Path(record))
    traced = options.pop("trace_memory_to", None)
    if traced:
        tracemalloc.start()
        signal.signal(signal.SIGUSR1, lambda *_: tell_memory(Path(traced)))
    try:
        return supervise(DaemonConfig(**options), None)
    except JournalError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
