"""How processes of ours are started."""

import sys
from pathlib import Path

import pytest
from support import environment

from durable_bus.payloads.settings import AppSpec
from durable_bus.wire.spawning import WorkerArguments, spawn

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
    arguments = WorkerArguments((0, 1, 2), 1, AppSpec("module", "m", "bus", []), "journal.db")
    assert spawn("warns", arguments, []).wait(60) == 0
    err = capfd.readouterr().err
    assert err.count("RuntimeWarning: The global interpreter lock") == times
    assert err.count("RuntimeWarning: another one") == 1
