"""An app that puts its own in the place of Python's threads, locks and sleep, as gevent's `patch_all`."""

from pathlib import Path

import pytest
from support import Facts, outcome, program

PATCHING = """
import os, sys, threading, time, _thread
import durable_bus

if __name__ != "__main__":
    assert len(os.listdir("/proc/self/task")) == 1, "gevent cannot patch where another thread is"

    def refuse(*_, **__):
        raise RuntimeError("an app has put this in its place")

    wait = time.sleep
    threading._start_new_thread = threading._allocate_lock = threading.Lock = refuse
    time.sleep = _thread.start_new_thread = refuse

def slow_at_last(n):
    while n == 9 and not os.path.exists("door"):
        wait(0.01)
    return n

if __name__ == "__main__":
    print(list(durable_bus.map(slow_at_last, range(10), journal=sys.argv[1], workers=1)))
"""


@pytest.mark.slow
@pytest.mark.real_start
def test_it_runs_and_what_is_done_is_recorded_while_a_slow_item_runs(
    tmp_path: Path, journal: Path, facts: Facts
) -> None:
    ran = program(tmp_path / "patching.py", PATCHING, str(journal))
    facts.until("SELECT count(*) = 9 FROM results")
    (tmp_path / "door").touch()
    assert outcome(ran) == (0, f"{list(range(10))}\n", "")
