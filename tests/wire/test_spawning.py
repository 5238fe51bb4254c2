"""How processes of ours are started."""

import sys
from pathlib import Path

import pytest
from support import environment

import durable_bus
from durable_bus.errors import UnsupportedPlatform
from durable_bus.payloads.settings import AppSpec
from durable_bus.wire import spawning
from durable_bus.wire.spawning import WorkerArguments, spawn

ARGUMENTS = WorkerArguments((0, 1, 2), 1, AppSpec("module", "m", "bus", []), "journal.db")

WARNS = """
import warnings
warnings.warn(
    "The global interpreter lock (GIL) has been enabled to load module 'lxml.etree', which has not declared "
    "that it can run safely without the GIL.", RuntimeWarning)
warnings.warn("another one", RuntimeWarning)
"""


@pytest.mark.parametrize(("abiflags", "times"), [("", 1), ("t", 0)], ids=["with", "without"])
def test_a_python_without_a_gil_says_once_that_lxml_needs_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    abiflags: str,
    times: int,
) -> None:
    (tmp_path / "warns.py").write_text(WARNS)
    monkeypatch.setattr(sys, "abiflags", abiflags)
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{environment()['PYTHONPATH']}")
    assert spawn("warns", ARGUMENTS, []).wait(60) == 0
    err = capfd.readouterr().err
    assert err.count("RuntimeWarning: The global interpreter lock") == times
    assert err.count("RuntimeWarning: another one") == 1


@pytest.mark.parametrize("module", ["durable_bus.worker", "durable_bus.supervisor", "durable_bus.engines"])
def test_a_process_of_another_version_says_so_and_ends(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], module: str
) -> None:
    """The package was upgraded while a daemon, or a notebook, goes on with what it has imported."""
    monkeypatch.setattr(spawning, "__version__", "0.0.9")
    assert spawn(module, ARGUMENTS, []).wait(60) == 1
    here = durable_bus.__version__
    expected = f"durable_bus: {here} was installed while a program with 0.0.9 runs: restart that one\n"
    assert capfd.readouterr().err == expected


@pytest.mark.parametrize(("name", "value"), [("frozen", True), ("executable", "")])
def test_a_frozen_program_is_refused(
    monkeypatch: pytest.MonkeyPatch, journal: Path, name: str, value: object
) -> None:
    """Started again it would be the program, not Python: that would start one more, and so on for ever."""
    monkeypatch.setattr(sys, name, value, raising=False)
    with pytest.raises(UnsupportedPlatform, match="workers are started with a Python of their own"):
        list(durable_bus.map(abs, [-1], journal=journal))
    assert not journal.exists()
