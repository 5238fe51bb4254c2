"""The extras: who has not installed one is told its name, and nobody else loads it."""

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import durable_bus
from support import environment

pytestmark = pytest.mark.real_start

EXTRAS = ("pyarrow", "pandas", "numpy", "pydantic", "starlette", "uvicorn", "jinja2")


@pytest.fixture
def without_extras(tmp_path: Path) -> str:
    """A PYTHONPATH whose modules of these names are not there, as for who has installed none."""
    folder = tmp_path / "without"
    folder.mkdir()
    for name in EXTRAS:
        (folder / f"{name}.py").write_text(f'raise ModuleNotFoundError("No module named {name!r}")\n')
    return f"{folder}:{environment().get('PYTHONPATH', '')}"


@pytest.mark.slow
def test_commands_name_the_extra_that_is_missing(tmp_path: Path, without_extras: str) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "a.txt").write_text("a\n")
    echo = ("run", "apps.any_value:bus", "echo", "--items")
    items = durable_bus(*echo, "a.parquet", cwd=tmp_path, PYTHONPATH=without_extras)
    assert items.code == 2
    assert items.error == "reading Parquet needs pyarrow: install durable-bus[arrow]"
    results = (*echo, "a.txt", "--format", "parquet", "-o", "out.parquet")
    written = durable_bus(*results, cwd=tmp_path, PYTHONPATH=without_extras)
    assert written.code == 2
    assert written.error == "--format parquet needs pyarrow: install durable-bus[arrow]"
    assert not (tmp_path / "journal.db").exists()  # said before any work


@pytest.mark.slow
def test_a_buffer_names_the_extra_that_is_missing(tmp_path: Path, without_extras: str) -> None:
    code = """
from durable_bus.errors import UsageError
from apps.plain import bus
with bus.running("journal.db", workers=1) as client:
    buffer = client.start("echo", ["a"])
    for table in (buffer.to_arrow, buffer.to_pandas):
        try:
            table()
        except UsageError as error:
            print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(PYTHONPATH=without_extras),
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        "Buffer.to_arrow() needs pyarrow: install durable-bus[arrow]",
        "Buffer.to_pandas() needs pandas: install durable-bus[pandas]",
    ], done.stderr


@pytest.mark.parametrize(
    "module",
    [
        "durable_bus",
        "durable_bus.cli",
        "durable_bus.cli.run",
        "durable_bus.client.client",
        "durable_bus.worker",
    ],
)
def test_importing_the_package_loads_no_extra(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {EXTRAS} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
