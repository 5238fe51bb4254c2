"""What takes seconds to make, and no test changes: the first process that needs it makes it for all."""

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """It is the same for all processes of a run, and of this run alone."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Any:
    """What `make` returned, which was told a folder; it has to be something that can be pickled."""
    shared = shared_folder(factory)
    with open(shared / f"{name}.made", "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        made = file.read()
        if not made:
            folder = shared / name
            shutil.rmtree(folder, ignore_errors=True)  # one that could not be made
            folder.mkdir()
            made = pickle.dumps(make(folder))
            file.write(made)
        return pickle.loads(made)


def copied_folder(factory: pytest.TempPathFactory, folder: Path) -> Path:
    """A copy for this process alone: who reads a journal leaves files beside it."""
    return Path(shutil.copytree(folder, factory.mktemp(folder.name) / "copy"))
