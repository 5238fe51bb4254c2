"""Each line of a JSON log says how bad it is, by its event, as the documents say."""

import json
import re
import signal
from pathlib import Path

import pytest
from services import Service
from support import REPOSITORY, kill

from durable_bus.supervisor.io.log import ERRORS, WARNINGS, Log, level_of

SUPERVISOR = REPOSITORY / "durable_bus" / "supervisor"


def levels(service: Service) -> dict[str, set[str]]:
    """The levels that each event had."""
    found: dict[str, set[str]] = {}
    for line in service.log().splitlines():
        told = json.loads(line)
        found.setdefault(told["event"], set()).add(told["level"])
    return found


@pytest.mark.slow
def test_deaths_are_warnings_and_an_app_that_cannot_be_imported_is_an_error(journal: Path) -> None:
    (journal.parent / "app.py").write_text("from durable_bus import Bus\nbus = Bus('app')\n")
    with Service(journal, "app:bus", workers=1, cwd=journal.parent, log_format="json") as service:
        service.until_ready()
        kill(service.workers()[0])
        service.until_logged("worker ready", times=2)
        assert levels(service)["worker ended"] == {"warning"}
        (journal.parent / "app.py").write_text("raise RuntimeError('broken, however long it is')\n")
        service.send(signal.SIGHUP)
        service.until_logged("worker cannot import the app")
        assert levels(service)["worker cannot import the app"] == {"error"}
        assert levels(service)["reloading"] == levels(service)["run started"] == {"info"}


@pytest.mark.slow
def test_a_worker_that_makes_room_for_another_is_none_of_what_has_gone_wrong(journal: Path) -> None:
    with Service(journal, workers=1, log_format="json") as service:
        service.until_ready()
        service.send(signal.SIGHUP)
        service.until_logged("worker ended")
        assert levels(service)["worker ended"] == {"info"}


def test_the_text_format_is_what_it_was(tmp_path: Path) -> None:
    log = Log(fd=0, log_format="text")
    assert log._line(0, "worker ended", {"pid": 7}) == "1970-01-01T00:00:00.000Z worker ended pid=7"


def test_every_event_with_a_level_is_one_that_is_logged() -> None:
    source = "".join(path.read_text() for path in SUPERVISOR.rglob("*.py") if path.name != "log.py")
    said = {*re.findall(r'"([a-z ]+)"', source)}
    batches = {f"batches {how}" for how in ("late", "lost", "returned") if 'f"batches {told.how}"' in source}
    assert (ERRORS | WARNINGS) - said - batches == set()


def test_the_levels_are_those_that_are_documented() -> None:
    text = (SUPERVISOR / "io" / "README.md").read_text()
    rows = dict(re.findall(r"^\| (error|warning) \| [^|]* \| (.*) \|$", text, re.MULTILINE))
    documented = {level: {one.partition(",")[0] for one in row.split(" · ")} for level, row in rows.items()}
    assert documented == {"error": ERRORS, "warning": WARNINGS}
    assert level_of("buffer opened", {}) == "info"
    assert level_of("worker ended", {"retired": True}) == "info"
