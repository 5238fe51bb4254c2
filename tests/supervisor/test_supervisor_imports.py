"""A supervisor starts light: the first item of every `run` waits for what it imports."""

import pytest
from imports import modules_after, rooms_of

pytestmark = pytest.mark.real_start

HEAVY = {"asyncio", "click", "concurrent", "multiprocessing", "random", "rich", "sqlite_utils", "tempfile"}


def test_a_supervisors_start_imports_nothing_that_only_others_need() -> None:
    modules = modules_after("import durable_bus.supervisor.process")
    assert not {name.partition(".")[0] for name in modules} & HEAVY
    assert rooms_of(modules) == {"errors", "journal", "payloads", "supervisor", "wire"}
