"""A user's program pays for the client that it imports, not for what only a supervisor of its own needs."""

import pytest
from imports import modules_after, rooms_of

pytestmark = pytest.mark.real_start

HEAVY = {"asyncio", "click", "concurrent", "multiprocessing", "random", "rich", "sqlite_utils", "subprocess"}


def test_a_clients_import_brings_nothing_that_only_others_need() -> None:
    modules = modules_after("from durable_bus import Client")
    assert not {name.partition(".")[0] for name in modules} & HEAVY
    assert rooms_of(modules) == {"client", "errors", "journal", "payloads", "wire"}


def test_map_starts_its_supervisor_before_it_imports_what_its_client_needs() -> None:
    """The supervisor boots meanwhile: the first value comes 25 ms earlier than in the order of files."""
    modules = {*modules_after("from durable_bus import map")}
    assert not modules & {"sqlite3", "durable_bus.client.client", "durable_bus.client.mapped_values"}
    assert "durable_bus.client.embedded" in modules
