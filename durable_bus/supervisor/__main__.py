"""`python -m durable_bus.supervisor ARGUMENTS`: a supervisor's process, as a client starts it."""

import sys

from durable_bus.wire.imports import to_stay

if __name__ == "__main__":
    with to_stay():
        from durable_bus.supervisor.process import main
        from durable_bus.wire.spawning import SupervisorArguments, arguments_of

    sys.exit(main(arguments_of(sys.argv[1], SupervisorArguments)))
