"""The bench runs, and says what it says it does. What it measures is not looked at."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parent.parent / "tools" / "bench.py"


def bench(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(BENCH), "--folder", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=110,
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    few = ["--items", "40", "--workers", "1", "--rounds", "2", "--latency-samples", "3"]
    done = bench(tmp_path_factory.mktemp("bench"), *few, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_report_names_the_machine_and_the_command(report: Any) -> None:
    assert report["command"].startswith("tools/bench.py --folder ")
    assert {"cpu", "cores", "kernel", "python", "sqlite", "file_system"} <= report["machine"].keys()
    assert (report["items"], report["workers"], report["rounds"]) == (40, 1, 2)


def test_every_variant_has_a_rate_of_every_round(report: Any) -> None:
    variants = report["sections"]["throughput"]["variants"]
    assert list(variants) == ["a", "a2", "b", "c", "d", "e"]
    for facts in variants.values():
        assert len(facts["items_per_s"]) == 2
        assert min(facts["items_per_s"]) <= facts["median_items_per_s"] <= max(facts["items_per_s"])


def test_ratios_are_taken_within_a_round(report: Any) -> None:
    throughput = report["sections"]["throughput"]
    rates = {name: facts["items_per_s"] for name, facts in throughput["variants"].items()}
    for ratio in ("a/c", "a2/c", "a/e"):
        above, below = ratio.split("/")
        expected = [one / other for one, other in zip(rates[above], rates[below], strict=True)]
        assert throughput["ratios"][ratio]["rounds"] == pytest.approx(expected, abs=0.002)


def test_latency_and_memory_are_there(report: Any) -> None:
    latency = report["sections"]["latency"]
    assert latency["samples"] == 3
    assert 0 < latency["p50_ms"] <= latency["p99_ms"] <= latency["max_ms"]
    assert len(report["sections"]["throughput"]["supervisor_peak_mb"]) == 2


def test_one_section_and_one_variant_can_be_chosen_and_are_printed(tmp_path: Path) -> None:
    few = ["--items", "20", "--workers", "1", "--rounds", "1"]
    done = bench(tmp_path, *few, "--only", "throughput", "--variants", "c")
    assert done.returncode == 0, done.stderr
    assert "Pool.imap_unordered, chunksize 256" in done.stdout
    assert "one-item buffer" not in done.stdout


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--variants", "x"], ["--items", "0"]])
def test_what_does_not_exist_is_refused(arguments: list[str], tmp_path: Path) -> None:
    done = bench(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
