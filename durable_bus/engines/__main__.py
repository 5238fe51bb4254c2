"""`python -m durable_bus.engines ARGUMENTS`: an engine process, as a supervisor starts it."""

import os
import sys
import threading
import time

from durable_bus.wire.imports import to_stay

_POOLS_S = 1.0
"""So long we wait for pools whose processes are dead. They can wait for ever (see `one_each`). With what
`OneEach.close` waits it is less than a supervisor gives us.
"""

if __name__ == "__main__":
    with to_stay():
        from durable_bus.engines.one_each import SEAT
        from durable_bus.engines.process import main
        from durable_bus.wire.spawning import WorkerArguments, arguments_of

    code = main(arguments_of(sys.argv[1], WorkerArguments))
    # Of pools: else Python's resource tracker warns of the semaphores that they have not given back. A
    # pool's own thread, or that of its seat, may be giving one back: cut off in the middle, the tracker looks
    # for it, and warns, too.
    until_s = time.monotonic() + _POOLS_S
    for thread in threading.enumerate():
        of_a_pool = type(thread).__module__ in ("concurrent.futures.process", "loky.process_executor")
        if of_a_pool or thread.name.startswith(SEAT):
            thread.join(max(0.0, until_s - time.monotonic()))
    run_finalizers = getattr(sys.modules.get("multiprocessing.util"), "_run_finalizers", None)
    if run_finalizers is not None:
        run_finalizers()
    sys.stderr.flush()
    os._exit(code)  # what engines do at exit may wait for what runs elsewhere: nobody waits for that any more
