"""Golden journals: one of each schema version, made by golden/make.py when that version was the newest."""

from contextlib import closing
from pathlib import Path

import pytest
from eventful import Story, supervised
from golden_journal import GOLDEN
from old_journals import old_journal
from support import Facts

from durable_bus.journal.admin.check import check
from durable_bus.journal.admin.history import History
from durable_bus.journal.connection import open_writer
from durable_bus.journal.reader import JournalReader
from durable_bus.journal.schema import migrations_folder, upgrade


@pytest.fixture(params=sorted(path.stem for path in GOLDEN.glob("*.journal.gz")))
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return old_journal(tmp_path / "golden.db", request.param)


def test_there_is_a_golden_journal_of_every_schema_version() -> None:
    versions = {int(script.name[:4]) for script in migrations_folder().glob("[0-9]*.sql")}
    assert {int(path.name.split(".")[0].removeprefix("v")) for path in GOLDEN.glob("*.gz")} == versions


@pytest.mark.slow
def test_a_golden_journal_is_upgraded_read_and_gone_on_with(golden: Path) -> None:
    facts = Facts(golden)
    before = facts.rows("SELECT buffer_id, state, total, completed FROM buffers ORDER BY 1")
    assert len(before) >= 12
    with closing(open_writer(golden)) as connection:
        upgrade(connection, golden, big_ones=True)
    assert [finding for finding in check(golden).checks if not finding.ok] == []
    assert facts.rows("SELECT buffer_id, state, total, completed FROM buffers ORDER BY 1") == before
    with JournalReader(golden) as reader:
        results = list(reader.results(reader.buffer_seq("failing")))
    assert [result.success for result in results] == [True, True, False, True]
    assert results[0].payload == "did flaky"
    with History(golden) as history:
        runs = [run["ended"] for run in history.runs(served=False)]
    assert (runs[:4], set(runs[4:])) in [(["crashed"] * 3 + ["clean"], more) for more in (set(), {"clean"})]
    with supervised(golden) as client:
        assert client.receive(60).message_id.endswith("/complete")
        assert client.start("work", ["fine"], buffer_id="new").wait(60).successful == 1


def test_a_story_of_today_is_what_the_golden_one_was(story: Story, golden: Path) -> None:
    """So that golden/make.py still makes what tests of golden journals rely on."""
    query = "SELECT buffer_id, state, total FROM buffers ORDER BY buffer_id"
    assert set(Facts(story.journal).rows(query)) <= set(Facts(golden).rows(query))
