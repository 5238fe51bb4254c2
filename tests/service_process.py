"""A daemon for the tests, with every option of `DaemonConfig`: python service_process.py '{"journal": …, …}'.

`trace_memory_to`: a file to which it writes, at SIGUSR1, how many bytes Python objects take.
`thread_messages_max`: the limit of that name, so that a conversation comes to it quickly.
`boot_timeout_s`: how long a worker may take to import the app.
`clears_slowly`: a turn deletes as few rows as it ever does, so that a test can see what is left half-way.
"""

import gc
import json
import signal
import sys
import tracemalloc
from pathlib import Path
from typing import Any

from durable_bus.errors import JournalError
from durable_bus.supervisor import maintenance as housekeeping
from durable_bus.supervisor.io.client_sockets import Limits
from durable_bus.supervisor.outcomes import threads as thread_registry
from durable_bus.supervisor.process import DaemonConfig, supervise
from durable_bus.supervisor.workers import workforce


def tell_memory(path: Path) -> None:
    gc.collect()
    beside = path.with_suffix(".new")
    beside.write_text(str(tracemalloc.get_traced_memory()[0]))
    beside.rename(path)


def main(options: dict[str, Any]) -> int:
    options["journal"] = Path(options["journal"])
    options["limits"] = Limits(**options.pop("limits", {}))
    if options.get("socket"):
        options["socket"] = Path(options["socket"])
    if options.pop("clears_slowly", False):
        housekeeping._STEP_NS = 0
    thread_registry.THREAD_MESSAGES_MAX = options.pop(
        "thread_messages_max", thread_registry.THREAD_MESSAGES_MAX
    )
    workforce.BOOT_TIMEOUT_S = options.pop("boot_timeout_s", workforce.BOOT_TIMEOUT_S)
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
