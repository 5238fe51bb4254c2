"""A user's program pays for the client that it imports, not for what only a supervisor of its own needs."""

import json
import subprocess
import sys

from support import environment

IMPORT = "import json, sys; from durable_bus import Client; print(json.dumps(sorted(sys.modules)))"
HEAVY = {"asyncio", "click", "concurrent", "multiprocessing", "random", "rich", "sqlite_utils", "subprocess"}


def test_a_clients_import_brings_nothing_that_only_others_need() -> None:
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout)
    assert not {name.partition(".")[0] for name in modules} & HEAVY
    rooms = {name.split(".")[1] for name in modules if name.startswith("durable_bus.")}
    assert rooms == {"client", "errors", "journal", "payloads", "wire"}
