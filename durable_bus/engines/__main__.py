"""`python -m durable_bus.engines ARGUMENTS`: an engine process, as a supervisor starts it."""

import os
import sys

from durable_bus.wire.imports import to_stay

if __name__ == "__main__":
    with to_stay():
        from durable_bus.engines.process import main
        from durable_bus.wire.spawning import WorkerArguments, arguments_of

    code = main(arguments_of(sys.argv[1], WorkerArguments))
    # Of pools: else Python's resource tracker warns of the semaphores that they have not given back.
    run_finalizers = getattr(sys.modules.get("multiprocessing.util"), "_run_finalizers", None)
    if run_finalizers is not None:
        run_finalizers()
    sys.stderr.flush()
    os._exit(code)  # what engines do at exit may wait for what runs elsewhere: nobody waits for that any more
