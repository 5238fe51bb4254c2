#!/usr/bin/env python3
"""`durable-bus replay` from a checkout, without an installed package.

    tools/replay.py show --journal journal.db

Needs what the package needs (lxml, sqlite-utils, click, rich), as in the environment that tools/demo makes:
`.venv/bin/python tools/replay.py …`.
"""

import sys
from pathlib import Path


def main() -> int:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    try:
        from durable_bus.cli import main as durable_bus
    except ModuleNotFoundError as error:
        sys.stderr.write(f"replay.py: {error.name} is not installed; see the top of {__file__}\n")
        return 2
    return durable_bus(["replay", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
