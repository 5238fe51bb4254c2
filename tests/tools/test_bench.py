"""The bench runs every section, and says what it says it does. How long things took is not looked at."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from once import made_once
from support import PATIENCE_S, REPOSITORY

TOOLS = REPOSITORY / "tools"
BENCH = TOOLS / "bench.py"


def bench(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(BENCH), "--folder", str(folder), *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=200,
    )


def report_of(folder: Path, *arguments: str) -> Any:
    done = bench(folder, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == [], "it leaves nothing behind"
    return json.loads(done.stdout)


def report_made_once(factory: pytest.TempPathFactory, name: str, *arguments: str) -> Any:
    return made_once(factory, name, lambda folder: report_of(folder, *arguments))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What it does unasked."""
    few = ["--items", "40", "--workers", "1", "--rounds", "2", "--latency-samples", "3"]
    return report_made_once(tmp_path_factory, "bench", *few)


@pytest.fixture(scope="module")
def long_report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What it does when asked, with few of everything."""
    few = ["--items", "40", "--workers", "1", "--rounds", "1", "--payload", "order"]
    few += ["--awaits-items", "60", "--beside-items", "300", "--journal-results", "50", "--flood-starts", "3"]
    few += ["--million-items", "90", "--clients", "2", "--connections", "3"]
    few += ["--cores-list", "1", "--sleepers-list", "2", "--cores-seconds", "0.01"]
    few += ["--small-list", "2,3", "--small-samples", "2", "--map-seconds", "0.01"]
    few += ["--submit-rate", "48", "--submit-seconds", "0.5"]
    few += ["--console-buffers", "5", "--console-seconds", "1", "--console-samples", "2"]
    few += ["--console-items", "50000", "--small-open", "20"]
    asked = ["--only", "awaits,beside,submissions,flood,journal,million,cost,cores,small,forms,map,console"]
    return report_made_once(tmp_path_factory, "long", *few, *asked)


@pytest.fixture
def sections() -> Iterator[Any]:
    """The bench's own table of sections: (measure, show) by name."""
    sys.path.insert(0, str(TOOLS))
    try:
        import bench

        yield bench.SECTIONS
    finally:
        sys.path.remove(str(TOOLS))


@pytest.mark.slow
def test_the_report_names_the_machine_and_the_command(report: Any) -> None:
    assert report["command"].startswith("tools/bench.py --folder ")
    assert {"cpu", "cores", "kernel", "python", "sqlite", "file_system"} <= report["machine"].keys()
    assert (report["items"], report["workers"], report["rounds"]) == (40, 1, 2)
    assert list(report["sections"]) == ["throughput", "latency"]


@pytest.mark.slow
def test_the_payload_is_named_with_its_size(report: Any, long_report: Any) -> None:
    assert report["payload"]["name"] == "query"
    assert 80 <= report["payload"]["mean_bytes"] <= 94
    assert long_report["payload"]["name"] == "order"
    assert 244 <= long_report["payload"]["mean_bytes"] <= 396


@pytest.mark.slow
def test_every_variant_has_a_rate_of_every_round(report: Any) -> None:
    variants = report["sections"]["throughput"]["variants"]
    assert list(variants) == ["a", "a2", "b", "c", "d", "e"]
    for facts in variants.values():
        rates = facts["items_per_s"]
        assert len(rates["rounds"]) == 2
        assert min(rates["rounds"]) <= rates["median"] <= max(rates["rounds"])


@pytest.mark.slow
def test_ratios_are_taken_within_a_round(report: Any) -> None:
    throughput = report["sections"]["throughput"]
    rates = {name: facts["items_per_s"]["rounds"] for name, facts in throughput["variants"].items()}
    for ratio in ("a/c", "a2/c", "a/e"):
        above, below = ratio.split("/")
        expected = [one / other for one, other in zip(rates[above], rates[below], strict=True)]
        # The rates are rounded before they are printed, which shows in the ratio to a low one.
        assert throughput["ratios"][ratio]["rounds"] == pytest.approx(expected, rel=0.01, abs=0.002)


def assert_percentiles(facts: Any, samples: int) -> None:
    assert facts["samples"] == samples
    assert facts["p50_ms"] <= facts["p99_ms"] <= facts["max_ms"]


@pytest.mark.slow
def test_latency_and_memory_are_there(report: Any) -> None:
    assert_percentiles(report["sections"]["latency"], 3)
    assert len(report["sections"]["throughput"]["supervisor_peak_mb"]) == 2


@pytest.mark.slow
def test_awaits_says_what_would_be_ideal(long_report: Any) -> None:
    awaits = long_report["sections"]["awaits"]
    assert (awaits["items"], awaits["concurrency"], awaits["ideal_s"]) == (60, 500, 0.1)
    assert len(awaits["wall_s"]["rounds"]) == 1


@pytest.mark.slow
def test_fifty_small_buffers_ran_beside_a_big_one_and_fifty_without(long_report: Any) -> None:
    beside = long_report["sections"]["beside"]
    assert (beside["big_items"], beside["small_items"]) == (300, 10)
    assert_percentiles(beside["idle"], 50)
    assert_percentiles(beside["beside"], 50)


@pytest.mark.slow
def test_every_submission_was_acknowledged_and_complete(long_report: Any) -> None:
    loads = long_report["sections"]["submissions"]
    expected = (("paced", 2, 4, 2 * 4 * 3), ("one_by_one", 2, 1, 2 * 12), ("at_once", 3, 1, 3 * 20))
    assert list(loads) == [name for name, *_ in expected]
    for name, connections, threads, buffers in expected:
        load = loads[name]
        assert load["threads_each"] == threads
        assert load["first_errors"] == []
        assert (load["errors"], load["connections"], load["client_processes"]) == (0, connections, 2)
        assert load["buffers"] == buffers
        assert load["buffers_per_s"] == pytest.approx(buffers / load["all_acknowledged_s"], rel=0.05)
        for facts in ("acknowledged", "acknowledged_after_due", "complete"):
            assert_percentiles(load[facts], buffers)


@pytest.mark.slow
def test_starts_beside_each_flood_were_acknowledged(long_report: Any) -> None:
    measured = long_report["sections"]["flood"]
    for name in ("reads_nothing", "reads_everything"):
        assert measured[name]["alone"]["samples"] == measured[name]["beside"]["samples"] == 3
        assert measured[name]["supervisor_peak_mb"] >= measured[name]["supervisor_peak_alone_mb"]


@pytest.mark.slow
def test_the_commands_were_run_on_two_journals(long_report: Any) -> None:
    journal = long_report["sections"]["journal"]
    assert journal["interpreter"]["peak_mb"] > 0
    for made in ("written_by_a_run", "one_item_a_batch"):
        assert journal[made]["results_recorded"] == 50
        for command in ("status", "replay show", "check", "results"):
            assert journal[made][command]["peak_mb"] > journal["interpreter"]["peak_mb"]
        results = journal[made]["results"]
        assert results["rows_per_s"] == pytest.approx(50 / results["wall_s"], abs=0.1)


@pytest.mark.slow
def test_million_compares_two_sizes(long_report: Any) -> None:
    million = long_report["sections"]["million"]
    assert (million["few"]["items"], million["many"]["items"]) == (40, 90)
    ratio = million["many"]["items_per_s"]["median"] / million["few"]["items_per_s"]["median"]
    assert million["many/few"]["median"] == pytest.approx(ratio, abs=0.002)


@pytest.mark.slow
def test_cost_repeats_what_a_run_has_written(long_report: Any) -> None:
    cost = long_report["sections"]["cost"]
    assert cost["items"] == 40
    assert min(cost["last_round"].values()) >= 1
    for ratio, facts in cost["ratios"].items():
        above, below = (cost["item_us"][name]["rounds"] for name in ratio.split("/"))
        expected = [one / other for one, other in zip(above, below, strict=True)]
        assert facts["rounds"] == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_cores_compares_every_job_with_the_best_chunk_size(long_report: Any) -> None:
    runs = long_report["sections"]["cores"]["runs"]
    expected = [("echo", 1, 500), ("burn_100us", 1, 100), ("burn_1ms", 1, 10)]
    expected += [("sleep_1ms", 2, 20), ("sleep_10ms", 2, 2)]
    assert [(run["job"], run["workers"], run["items"]) for run in runs] == expected
    for run in runs:
        rates = {side: facts["rounds"] for side, facts in run["items_per_s"].items()}
        assert list(rates) == ["durable_bus", "pool", "executor"]
        assert set(run["best_chunk"].values()) <= {1, 4, 16, 64, 256}
        ratio = rates["durable_bus"][0] / rates["pool"][0]
        assert run["ratios"]["durable_bus/pool"]["rounds"] == [pytest.approx(ratio, rel=0.01, abs=0.001)]
        assert run["dispatches_per_worker"][0] >= 1


@pytest.mark.slow
def test_forms_compares_json_with_text_and_asks_in_sql(long_report: Any) -> None:
    measured = long_report["sections"]["forms"]
    assert 250 < measured["bytes"] < 350
    assert all(rate > 0 for name in ("text", "json") for rate in measured[name]["rounds"])
    assert len(measured["questions"]) == 4
    assert all(seconds > 0 for seconds in measured["questions"].values())


@pytest.mark.slow
def test_map_is_compared_with_both_that_people_use(long_report: Any) -> None:
    jobs = long_report["sections"]["map"]["jobs"]
    assert len(jobs) == 4
    for job in jobs.values():
        assert job["items_per_s"].keys() == {"durable_bus", "pool", "joblib"}
        assert all(rate > 0 for side in job["items_per_s"].values() for rate in side["rounds"])
        assert job["of_the_better"]["median"] > 0


@pytest.mark.slow
def test_small_says_what_would_be_ideal(long_report: Any) -> None:
    small = long_report["sections"]["small"]
    assert {workers: facts["ideal_ms"] for workers, facts in small["fanned"].items()} == {"2": 15, "3": 10}
    for facts in (*small["fanned"].values(), small["one_item"], small["two_fdatasyncs"]):
        assert_percentiles(facts, 2)
    assert_percentiles(small["one_item_beside"], 10)


@pytest.mark.slow
def test_every_section_can_be_printed(
    report: Any, long_report: Any, sections: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {**report["sections"], **long_report["sections"]}
    assert measured.keys() == sections.keys()
    for name, (_, show) in sections.items():
        show(measured[name])
        assert f"    {name}" in capsys.readouterr().out.splitlines()[0]


def test_one_section_and_one_variant_can_be_chosen_and_are_printed(tmp_path: Path) -> None:
    few = ["--items", "20", "--workers", "1", "--rounds", "1"]
    done = bench(tmp_path, *few, "--only", "throughput", "--variants", "c")
    assert done.returncode == 0, done.stderr
    assert "Pool.imap_unordered, chunksize 256" in done.stdout
    assert "with larger ones the XML work itself outweighs" in done.stdout
    assert "one-item buffer" not in done.stdout


def test_the_bench_starts_with_nothing_but_this_package(tmp_path: Path) -> None:
    """So that it can be carried to a machine with more cores."""
    for name in ("httpx", "joblib", "psutil", "pytest"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not there')\n")
    done = bench(tmp_path, "--help", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = bench(tmp_path, "--only", "nothing")
    assert done.returncode == 2
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "nothing"],
        ["--variants", "x"],
        ["--items", "0"],
        ["--connections", "65"],
        ["--cores-list", "1,0"],
        ["--payload", "x"],
    ],
)
@pytest.mark.usefixtures("sections")
def test_arguments_that_do_not_exist_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    import bench  # as `sections` has made it possible

    with pytest.raises(SystemExit, match="2"):
        bench.main(arguments)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("variants", ["a", "c", "e"])
def test_ctrl_c_ends_it_and_all_that_it_started(variants: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(BENCH), "--folder", str(tmp_path), "--workers", "1", "--rounds", "1000"]
        + ["--items", "2000", "--only", "throughput", "--variants", variants],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Ended at any moment, it may leave what it was just opening to the interpreter.
        env={**os.environ, "PYTHONWARNINGS": ""},
    )
    try:
        assert process.stderr is not None
        assert "round 1 of 1000" in process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, said = process.communicate(timeout=PATIENCE_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    # Behind it Python may warn of what the processes of an executor have left, from 3.14 on.
    assert said.splitlines().count("interrupted in throughput") == 1
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_it_removes_its_folder_does_not_leave_it(
    sections: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from _bench.processes import scratch  # as `sections` has made it possible

    rmdir = os.rmdir

    def interrupted(path: Any, **how: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        rmdir(path, **how)

    with pytest.raises(KeyboardInterrupt), scratch(tmp_path):
        monkeypatch.setattr(os, "rmdir", interrupted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_console_was_asked_for_every_page_and_listened_to(long_report: Any) -> None:
    console = long_report["sections"]["console"]
    assert (console["results"], console["buffers"]) == (50, 5)
    assert {path.split("?")[0].split("/")[1] for path in console["pages"]} == {
        "", "buffers", "workers", "messages", "questions", "time",
    }  # fmt: skip
    assert all(0 < page["kb"] < 200 for page in console["pages"].values())
    assert console["one_page_open"]["fetched"] >= 1
    assert console["streams"]["events"][0] >= 1
    assert console["streams"]["after"]["descriptors"] <= console["streams"]["before"]["descriptors"]
