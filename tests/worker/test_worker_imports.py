"""A worker boots light: every worker pays for what it imports, and so does every item that waits for one."""

import sys

import pytest
from imports import modules_after, rooms_of

pytestmark = pytest.mark.real_start

BESIDE = "import lxml.etree, msgspec, traceback"
"""traceback imports pathlib itself from Python 3.15 on."""
HEAVY = {"asyncio", "concurrent", "hashlib", "multiprocessing", "pathlib", "sqlite3", "subprocess", "urllib"}


def test_a_workers_boot_imports_nothing_that_only_others_need() -> None:
    modules = modules_after("import durable_bus.worker.process", beside=BESIDE)
    top = {name.partition(".")[0] for name in modules}
    of_debian = {"_missing_stdlib_info"}  # what its Python of 3.15 has beside the standard library
    assert top - sys.stdlib_module_names - of_debian == {"durable_bus"}, "beside lxml and msgspec"
    assert not top & HEAVY
    assert rooms_of(modules) == {"app", "errors", "journal", "payloads", "wire", "worker"}
    of_the_journal = [name for name in modules if name.startswith("durable_bus.journal.")]
    assert of_the_journal == ["durable_bus.journal.formats"]
