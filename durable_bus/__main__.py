"""`python -m durable_bus`: the command line, see `durable_bus.cli`."""

import sys

from durable_bus.cli import main

if __name__ == "__main__":
    sys.exit(main())
