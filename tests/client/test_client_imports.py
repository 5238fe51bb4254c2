"""A user's program pays for the client that it imports, not for what only a supervisor of its own needs."""

from pathlib import Path

import pytest
from imports import modules_after, rooms_of
from support import outcome, program

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


@pytest.mark.parametrize("platform", ["darwin", "win32"])
@pytest.mark.parametrize("wanted", ["durable_bus.map", "durable_bus.Client", "durable_bus.open"])
def test_on_another_platform_one_line_says_so_and_a_bus_can_be_defined(
    tmp_path: Path, platform: str, wanted: str
) -> None:
    """As an editor or a type checker on it does."""
    source = f"import sys; sys.platform = {platform!r}\nimport durable_bus\ndurable_bus.Bus('b')\n"
    code, _, err = outcome(program(tmp_path / "elsewhere.py", f"{source}{wanted}"))
    last = err.splitlines()[-1]
    assert (code, last) == (
        1,
        f"durable_bus.errors.UnsupportedPlatform: durable_bus needs Linux; this is {platform}",
    )
