"""`python -m durable_bus.worker ARGUMENTS`: a worker's process, as a supervisor starts it."""

import sys

from durable_bus.wire.imports import to_stay

if __name__ == "__main__":
    with to_stay():
        from durable_bus.wire.spawning import WorkerArguments, arguments_of
        from durable_bus.worker.process import main

    sys.exit(main(arguments_of(sys.argv[1], WorkerArguments)))
