"""Fixtures of the tests of behaviour."""

import gc
import os
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import eventful
import everything
import forks
import pytest
from hypothesis import settings
from once import copied_folder, made_once
from support import Facts, RunLog
from xdist.scheduler import LoadFileScheduling

# A shell that starts us in the background has us ignore Ctrl-C, and everybody whom we start with us.
signal.signal(signal.SIGINT, signal.default_int_handler)

# As for the tests themselves: whatever Python would warn of ends a program that they start, or is a line on
# its stderr. A file that nobody has closed is one, which no test would notice otherwise. But who is
# interrupted may leave a child behind, which ends by itself; and handlers may fork.
ALLOWED = ("ignore:subprocess:ResourceWarning", "ignore:This process:DeprecationWarning")
os.environ["PYTHONWARNINGS"] = ",".join(["error", *ALLOWED])

# How long an example takes says how busy the machine is.
settings.register_profile("durable_bus", deadline=None)
settings.register_profile("fast", deadline=None, max_examples=15)  # for `tools/test --fast`
settings.load_profile("durable_bus")


# Nothing that is made while tests are collected is garbage; to look for it takes a quarter of that time.
gc.disable()


forks.install()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    forks.started_for_real(item.get_closest_marker("real_start") is not None)


def pytest_collection_finish() -> None:
    gc.freeze()  # nor afterwards: to look for it among 5,000 tests takes 0.2 s, each time
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with most slow tests first, then those with most: several run at once, and the last to begin
    must not be the longest.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    all_of_them = Counter(item.path for item in items)
    items.sort(key=lambda item: (slow[item.path], all_of_them[item.path]), reverse=True)


class FilesTogether(LoadFileScheduling):
    """A process takes whole files, as what a file's tests share is made once for each process; and all files
    of `web/in_browser` together, which share a browser.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "in_browser" if "/in_browser/" in file else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """For `--dist loadfile`, which tools/test asks for."""
    return FilesTogether(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Where a test's journal will be."""
    return tmp_path / "journal.db"


@pytest.fixture
def facts(journal: Path) -> Facts:
    return Facts(journal)


@pytest.fixture
def run_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunLog:
    """Where handlers write down what they run; supervisors and workers inherit the variable."""
    path = tmp_path / "runs.log"
    monkeypatch.setenv("RUN_LOG", str(path))
    return RunLog(path)


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> eventful.Story:
    """A journal in which much has happened, closed cleanly. Not to be written to: see `copied`."""
    made: eventful.Story = made_once(
        tmp_path_factory, "eventful", lambda folder: eventful.make(folder / "journal.db", folder)
    )
    return replace(made, journal=copied_folder(tmp_path_factory, made.journal.parent) / made.journal.name)


@pytest.fixture(scope="session")
def everything_told(tmp_path_factory: pytest.TempPathFactory) -> everything.Everything:
    """A journal with all in it that the console shows, and copies of it. Not to be written to."""
    made: everything.Everything = made_once(tmp_path_factory, "everything", everything.make)
    return made.moved_to(copied_folder(tmp_path_factory, made.folder))


@pytest.fixture
def copied(story: eventful.Story, tmp_path: Path) -> Path:
    """A copy of it, to break."""
    return Path(shutil.copy(story.journal, tmp_path / "copied.db"))
