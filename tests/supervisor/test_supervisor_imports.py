"""A supervisor starts light: the first item of every `run` waits for what it imports."""

import json
import subprocess
import sys

from support import environment

IMPORT = "import json, sys, durable_bus.supervisor.process; print(json.dumps(sorted(sys.modules)))"
HEAVY = {"asyncio", "click", "concurrent", "multiprocessing", "random", "rich", "sqlite_utils", "tempfile"}


def test_a_supervisors_start_imports_nothing_that_only_others_need() -> None:
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout)
    assert not {name.partition(".")[0] for name in modules} & HEAVY
    rooms = {name.split(".")[1] for name in modules if name.startswith("durable_bus.")}
    assert rooms == {"errors", "journal", "payloads", "supervisor", "wire"}
