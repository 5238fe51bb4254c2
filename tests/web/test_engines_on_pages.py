"""Of an engine the pages name where work ran; the process is only the one that speaks for it."""

from contextlib import closing
from pathlib import Path

import pytest
from journal_rows import add_buffer
from pages_read import Pages, words

from durable_bus.journal.journal import Journal

ENGINE, NODE = "dask:tcp://10.0.0.1:8786", "node7:4711"


@pytest.fixture
def pages(journal: Path) -> Pages:
    """An item whose first attempt an engine has lost, and whose second has succeeded."""
    with closing(Journal.open(journal)) as opened:
        with opened.commit(1):
            opened.start_run(1, "app", "0")
            seq = add_buffer(opened, "b", ["x"], "0")
            lost = opened.work.dispatch(seq, 0, 1, 1, False, 999, ENGINE)
        with opened.commit(2):
            opened.work.end_dispatch(lost, "died")
            again = opened.work.dispatch(seq, 0, 1, 2, False, 999, ENGINE)
        with opened.commit(3):
            origin = {"attempt": 2, "worker_pid": 999, "durations": "0000001500", "place": NODE}
            opened.work.record_results(
                buffer_seq=seq, first_index=0, item_count=1, payloads=b"y\0", success=True, form=0,
                passed_on=False, dispatch_id=again, **origin,
            )  # fmt: skip
            opened.work.end_dispatch(again, "answered")
    return Pages(journal)


def test_an_item_ran_at_a_place_of_the_engine(pages: Pages) -> None:
    said = words(pages.get("/buffers/b/items/0").section("What happened"))
    assert f"attempt 1: handed to engine {ENGINE}" in said
    assert f"engine {ENGINE} lost it" in said
    assert f"It ran at {NODE}." in said
    assert "999" not in said


def test_what_an_engine_lost_is_no_death_of_its_process(pages: Pages) -> None:
    said = words(pages.get("/workers").section("Deaths"))
    assert f"engine {ENGINE} lost a worker with b item 0" in said
    assert "999" not in said
