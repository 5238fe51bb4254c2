"""What the first page says of how fast it goes."""

from contextlib import closing
from pathlib import Path

from journal_rows import add_buffer
from pages_read import Pages

from durable_bus.journal.journal import Journal


def test_now_is_the_last_ten_seconds_up_to_the_moment(journal: Path) -> None:
    with closing(Journal.open(journal)) as opened:
        with opened.commit(1):
            opened.start_run(1, "app", "0")
        for at_ms, results in ((10_000, 100), (30_000, 20), (31_000, 30)):
            with opened.commit(at_ms):
                seq = add_buffer(opened, f"b{at_ms}", ["x"] * results, "0")
                opened.work.record_results(
                    buffer_seq=seq, first_index=0, item_count=results, payloads=b"y\0" * results,
                    success=True, form=0, passed_on=False, dispatch_id=None, attempt=1, worker_pid=None,
                    durations="", place=None,
                )  # fmt: skip
    assert Pages(journal).get("/", at=4).pairs("figures")["Now"] == "5.0/s"
