"""A worker boots light: every worker pays for what it imports, and so does every item that waits for one."""

import json
import subprocess
import sys

from support import environment

IMPORT = """
import json, sys
import lxml.etree, msgspec
import traceback  # which imports pathlib itself from Python 3.15 on
before = set(sys.modules)
import durable_bus.worker.process
print(json.dumps(sorted(set(sys.modules) - before)))
"""
HEAVY = {"asyncio", "concurrent", "hashlib", "multiprocessing", "pathlib", "sqlite3", "subprocess", "urllib"}


def test_a_workers_boot_imports_nothing_that_only_others_need() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], env=environment(), capture_output=True, text=True, check=True
    )
    modules = json.loads(done.stdout)
    top = {name.partition(".")[0] for name in modules}
    of_debian = {"_missing_stdlib_info"}  # what its Python of 3.15 has beside the standard library
    assert top - sys.stdlib_module_names - of_debian == {"durable_bus"}, "beside lxml and msgspec"
    assert not top & HEAVY
    rooms = {name.split(".")[1] for name in modules if name.startswith("durable_bus.")}
    assert rooms == {"app", "errors", "journal", "payloads", "wire", "worker"}
    of_the_journal = [name for name in modules if name.startswith("durable_bus.journal.")]
    assert of_the_journal == ["durable_bus.journal.formats"]
