"""How many workers there are by default: as many as the process has cores, or time of cores."""

import os
from pathlib import Path

import pytest

from durable_bus.wire.cores import usable_cores


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def usable(tmp_path: Path, groups: str, files: dict[str, str]) -> int:
    written(tmp_path, {"groups": groups, **{f"mounted/{name}": text for name, text in files.items()}})
    return usable_cores(f"{tmp_path}/groups", f"{tmp_path}/mounted")


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))


V1 = "9:name=systemd:/\n4:memory:/docker/0a\n3:cpu,cpuacct:/docker/0a\n"


def limit_of_v1(folder: str, quota_us: int, period_us: int) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota_us}\n", f"{folder}/cpu.cfs_period_us": f"{period_us}\n"}


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        pytest.param("0::/\n", {}, 64, id="no limit is said"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, 64, id="no limit"),
        pytest.param("0::/\n", {"cpu.max": "200000 100000\n"}, 2, id="a container of version 2"),
        pytest.param("0::/\n", {"cpu.max": "150000 100000\n"}, 2, id="one and a half"),
        pytest.param("0::/\n", {"cpu.max": "10000 100000\n"}, 1, id="a tenth"),
        pytest.param("0::/\n", {"cpu.max": "9900000 100000\n"}, 64, id="more than there are"),
        pytest.param("0::/\n", {"cpu.max": "what is this\n"}, 64, id="nonsense"),
        pytest.param(
            "0::/system.slice/bus.service\n",
            {"system.slice/cpu.max": "300000 100000", "system.slice/bus.service/cpu.max": "max 100000"},
            3,
            id="the group above",
        ),
        pytest.param(V1, limit_of_v1("cpu", 400_000, 100_000), 4, id="a container of version 1"),
        pytest.param(V1, limit_of_v1("cpu,cpuacct/docker/0a", 50_000, 10_000), 5, id="a group of version 1"),
        pytest.param(V1, limit_of_v1("cpu", -1, 100_000), 64, id="no limit in version 1"),
    ],
)
def test_a_group_limits_the_cores(tmp_path: Path, groups: str, files: dict[str, str], cores: int) -> None:
    assert usable(tmp_path, groups, files) == cores


def test_where_nothing_is_said_it_is_the_cores(tmp_path: Path) -> None:
    assert usable_cores(f"{tmp_path}/none", f"{tmp_path}/none") == 64
    assert usable(tmp_path, "nonsense\n", {}) == 64
