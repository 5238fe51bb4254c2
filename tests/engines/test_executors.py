"""How engines are named and opened, and those of the user's own factory."""

import concurrent.futures
import contextlib
import os
import sys
from pathlib import Path

import engine_jobs as jobs
import pytest
from engine_processes import (
    NOTHING,
    PACKAGES,
    PYDANTIC,
    error_of,
    until_there,
)
from imports import modules_after
from support import (
    PATIENCE_S,
    until_gone,
)

from durable_bus.engines.executors import EngineGone, Fate, check_spec, open_engine
from durable_bus.engines.factory import FactoryEngine
from durable_bus.errors import EngineError

pytestmark = [pytest.mark.filterwarnings(warning) for warning in PYDANTIC]
slow = pytest.mark.slow


class TestFactory:
    @slow
    def test_a_broken_pool_makes_all_it_had_suspects_and_is_made_again(self, tmp_path: Path) -> None:
        begun = tmp_path / "begun"
        with contextlib.closing(open_engine("engine_jobs:make_pool", NOTHING)) as engine:
            assert engine.capacity == 2
            other = engine.submit(jobs.wait_for, str(tmp_path / "never"), str(begun))
            pid = int(until_there(begun))
            killer = engine.submit(jobs.die)
            with contextlib.suppress(EngineGone):
                # Python's pool may not look at the process that it started last before it is woken again.
                engine.submit(jobs.pid)
            assert engine.fate(error_of(killer)) is Fate.LOST
            assert engine.fate(error_of(other)) is Fate.LOST
            assert engine.submit(jobs.backwards, b"abc").result(PATIENCE_S) == b"cba"
            assert engine.is_alive()
        until_gone(pid)
        assert not engine.is_alive()

    def test_a_factory_that_makes_no_second_executor_is_gone(self) -> None:
        made = [concurrent.futures.ThreadPoolExecutor(3)]
        engine = FactoryEngine("some:factory", lambda: made.pop())
        assert engine.capacity == 3
        assert engine.submit(jobs.backwards, b"abc").result() == b"cba"
        engine._executor.shutdown()  # type: ignore[union-attr]
        with pytest.raises(EngineGone, match="the factory raised IndexError") as gone:
            engine.submit(jobs.pid)
        assert engine.fate(gone.value) is Fate.GONE
        assert not engine.is_alive()
        engine.close()

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("engine_jobs:nothing", "AttributeError"),
            ("no_such_module:make", "No module named 'no_such_module'"),
            ("engine_jobs:pid", "the factory returned a int, not a concurrent.futures.Executor"),
            ("os:sep", "is no callable"),
            ("builtins:map", "the factory raised TypeError"),
        ],
    )
    def test_a_factory_that_is_none_is_named(self, spec: str, message: str) -> None:
        with pytest.raises(EngineError, match=message):
            open_engine(spec, NOTHING)


class TestSpecs:
    @pytest.mark.parametrize(
        "spec",
        [
            "process",
            "process:4",
            "loky:1",
            "dask:tcp://h:1",
            "dask:h:1",
            "executorlib",
            "executorlib:2",
            "executorlib:slurm",
            "executorlib:flux:8",
            "mpi",
            "mpi:16",
            "a.module:factory",
        ],
    )
    def test_what_is_spelt_well_passes(self, spec: str) -> None:
        check_spec(spec)

    @pytest.mark.parametrize(
        "spec",
        [
            "",
            "fork",
            "process:",
            "process:0",
            "process:-1",
            "process:1.5",
            "process:²",
            "process:99999999999",
            "dask",
        ]
        + [
            "dask:",
            "dask:a b",
            "executorlib:pbs:2",
            "executorlib:slurm:",
            "mpi:x",
            "a:b:c",
            "a-b:c",
            "a:",
            ":b",
        ],
    )
    def test_what_is_not_is_refused_in_one_line(self, spec: str) -> None:
        with pytest.raises(EngineError) as refused:
            check_spec(spec)
        assert "\n" not in str(refused.value)
        assert spec in str(refused.value)

    @pytest.mark.parametrize("kind", ["loky", "executorlib", "dask", "mpi"])
    def test_a_package_that_is_missing_is_named_with_its_extra(
        self, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, PACKAGES[kind], None)
        monkeypatch.delitem(sys.modules, f"durable_bus.engines.{kind}", raising=False)
        for module in [name for name in sys.modules if name.startswith(f"{PACKAGES[kind]}.")]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setenv("PATH", os.environ["PATH"])
        with pytest.raises(EngineError, match=rf"pip install 'durable-bus\[{kind}\]'"):
            open_engine(f"{kind}:1", NOTHING)

    def test_to_check_a_spec_imports_nothing_of_an_engine(self) -> None:
        loaded = modules_after("from durable_bus.engines.executors import check_spec; check_spec('dask:a:1')")
        heavy = {"dask", "distributed", "loky", "mpi4py", "executorlib", "multiprocessing"}
        assert not heavy & {name.partition(".")[0] for name in loaded}
        assert "concurrent.futures.process" not in loaded
