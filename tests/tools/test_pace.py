"""The tool that measures pace runs every section and says what has come of it; how fast is not looked at."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY

TOOLS = REPOSITORY / "tools"
FEW = (
    *("--prompts", "40", "--seconds", "2", "--periods", "2", "--change-seconds", "1", "--latency", "0.1"),
    *("--big-items", "5000"),
    *("--fair-seconds", "1", "--waiting-items", "500", "--status-seconds", "0.2", "--rounds", "1"),
    *("--echo-items", "2000"),
)
EXCESS = """
import json, sys
sys.path[:0] = [sys.argv[1]]
from _pace.calls import excess_of
print(json.dumps([excess_of(times_s, rate) for times_s, rate in json.load(sys.stdin)]))
"""


@pytest.mark.slow
def test_the_worst_window_is_the_worst_of_all_windows() -> None:
    chance = random.Random(7)
    cases = [
        ([chance.uniform(0, 10) for _ in range(chance.randrange(1, 30))], chance.uniform(0.1, 5))
        for _ in range(50)
    ]
    said = subprocess.run(
        [sys.executable, "-c", EXCESS, str(TOOLS)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(said) == pytest.approx([excess_of_every_window(*case) for case in cases])


def excess_of_every_window(times_s: list[float], rate: float) -> float:
    """From each call to each later one."""
    return max(
        sum(1 for time_s in times_s if from_s <= time_s <= until_s)
        - rate * (until_s - from_s)
        - max(1.0, rate)
        for from_s in times_s
        for until_s in times_s
        if until_s >= from_s
    )


@pytest.mark.slow
def test_every_section_runs_and_leaves_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip("httpx", reason="there is no httpx for this Python")
    done = subprocess.run(
        [sys.executable, str(TOOLS / "pace.py"), "--folder", str(tmp_path), "--json", *FEW],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    report: dict[str, Any] = json.loads(done.stdout)
    example = report["example"]
    assert (example["results"], example["answered_once"]) == (40, 40)
    assert example["said"][0] == "40 of 40 answered"
    assert example["lost"] == example["service_answers"] - example["spending_answers"]
    assert example["lost_that_were_not_in_flight_at_a_kill"] == 0
    assert report["limit"]["calls"] > 0
    assert sum(report["limit"]["completed"]) > 0
    assert [period["capacity"] for period in report["adaptive"]["periods"]] == [100, 50]
    assert report["priority"]["urgent"]["samples"] == 50
    assert min(report["priority"]["fair"]) > 0
    assert report["waiting"]["items"] == 500
