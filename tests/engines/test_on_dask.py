"""An app on a Dask cluster: a real scheduler, workers as processes of their own, a daemon beside them."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_processes import Cluster
from services import Service
from support import Facts, environment, until

from durable_bus import Client
from durable_bus.errors import DurableBusError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def on_dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Facts, Path]]:
    """A client of a daemon whose items run on two workers, its journal, and a folder."""
    folder = tmp_path_factory.mktemp("on-dask")
    journal = folder / "journal.db"
    with contextlib.closing(Cluster(folder)) as cluster:
        cluster.worker()
        cluster.worker()
        command = [sys.executable, "-m", "durable_bus", "serve", "apps.elsewhere:bus"]
        with open(folder / "daemon.log", "wb") as log:
            daemon = subprocess.Popen(
                [*command, "--journal", str(journal), "--engine", f"dask:{cluster.address}"],
                env=environment(PYTHONWARNINGS="ignore"),
                stderr=log,
            )
        try:
            with until(lambda: client_of(journal), "there is a daemon") as client:
                yield client, Facts(journal), folder
        finally:
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(60) == 0, (folder / "daemon.log").read_text()


def client_of(journal: Path) -> Client | None:
    with contextlib.suppress(DurableBusError):
        return Client(journal)
    return None


OnDask = tuple[Client, Facts, Path]


def test_items_run_in_its_workers(on_dask: OnDask) -> None:
    client, facts, _ = on_dask
    buffer = client.start("double", range(2_000))
    awaited = client.start("late-double", range(200))
    assert buffer.wait(60).successful == 2_000
    assert [result.value for result in buffer.results()] == [2 * number for number in range(2_000)]
    assert awaited.wait(60).successful == 200
    where = facts.value('SELECT r."where" FROM results r LIMIT 1')
    assert where
    assert not where.endswith(f":{client.supervisor_pid or os.getpid()}")


def test_limits(on_dask: OnDask) -> None:
    client, facts, folder = on_dask
    buffer = client.start("side-by-side", range(10))
    rests = client.start("rests", ["", str(folder / "rested"), *[""] * 8])
    assert buffer.wait(60).successful == 10
    times = [result.value for result in buffer.results()]
    assert max(sum(begun <= at < ended for begun, ended in times) for at, _ in times) <= 2
    assert rests.wait(60).successful == 10
    assert [kind for _, _, kind, _ in facts.failures(rests.buffer_id)] == ["retry_after"]


def test_retries(on_dask: OnDask) -> None:
    client, facts, _ = on_dask
    buffer = client.start("second-time", range(10))
    assert buffer.wait(60).successful == 10
    assert [result.value for result in buffer.results()] == [2] * 10
    assert len(facts.failures(buffer.buffer_id)) == 10


def test_pause_and_cancel(on_dask: OnDask) -> None:
    client, facts, folder = on_dask
    gate = folder / "gate"
    paused, cancelled = (client.start("gate", [str(gate)] * 100) for _ in range(2))
    facts.until("SELECT count(*) >= 2 FROM in_flight")
    client.pause(paused.buffer_id)
    client.cancel(cancelled.buffer_id)
    gate.touch()
    facts.until("SELECT count(*) = 0 FROM in_flight")
    done = facts.recorded(paused.buffer_id)
    assert done < 100
    assert facts.recorded(cancelled.buffer_id) < 100
    assert client.start("double", [1]).wait(60).successful == 1
    assert facts.recorded(paused.buffer_id) == done
    client.resume(paused.buffer_id)
    assert paused.wait(60).successful == 100


def test_streams(on_dask: OnDask) -> None:
    client, _, _ = on_dask
    with client.stream("double", buffer_id="stream") as stream:
        for number in range(1_000):
            stream.put(number)
    assert client.buffer("stream").wait(60).successful == 1_000


def test_a_cluster_that_grows_holds_more_and_when_its_scheduler_is_killed_nobody_is_charged(
    cluster: Cluster, journal: Path, facts: Facts
) -> None:
    cluster.worker()
    gate = journal.parent / "gate"
    engine = {"name": f"dask:{cluster.address}"}
    with Service(
        journal, "apps.elsewhere:bus", workers=1, engine=engine, variables={"PYTHONWARNINGS": "ignore"}
    ) as service:
        with service.client() as client:
            client.start("gate", [str(gate)] * 20, buffer_id="many")
            facts.until("SELECT count(*) = 2 FROM in_flight")
            cluster.worker()
            facts.until("SELECT count(*) = 4 FROM in_flight")
            cluster.scheduler.kill()
            cluster.scheduler.wait()
            facts.until("SELECT count(*) = 0 FROM in_flight")
            gate.touch()
            cluster.start_scheduler()
            cluster.worker()
            assert client.buffer("many").wait(100).successful == 20
        assert "the engine" in service.log()
    assert facts.failures("many") == []
