"""How many cores this process may keep busy."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["usable_cores"]

Limit = Callable[[Path], tuple[int, int]]


def usable_cores(groups: str = "/proc/self/cgroup", mounted: str = "/sys/fs/cgroup") -> int:
    """Those that it may run on, or as many as its control groups give it the time of, rounded up, where these
    are fewer: a container with a limit of two CPUs sees every core of a large machine.

    `groups`: a file as cgroups(7) says; `mounted`: where their folders are. What cannot be read limits
    nothing.
    """
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, _quotas(Path(groups), Path(mounted)))]))


def _quotas(groups: Path, mounted: Path) -> Iterator[float]:
    """Seconds of processor time a second, of each group that we are in and that has a limit."""
    for hierarchy, group, limit in _hierarchies(groups, mounted):
        # In a container the name may be one of the host's, whose folder is the container's root.
        for folder in {hierarchy, *(hierarchy / one for one in (group, *group.parents))}:
            with contextlib.suppress(OSError, ValueError):
                quota_us, period_us = limit(folder)
                if quota_us > 0 and period_us > 0:
                    yield quota_us / period_us


def _hierarchies(groups: Path, mounted: Path) -> Iterator[tuple[Path, Path, Limit]]:
    """Where groups are that may limit processor time, which of them is ours, and how its limit is read."""
    try:
        lines = groups.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        controllers, _, name = line.partition(":")[2].partition(":")
        group = Path(name.lstrip("/"))
        if not controllers:
            yield mounted, group, _limit_of_v2
        elif "cpu" in controllers.split(","):
            yield mounted / controllers, group, _limit_of_v1
            yield mounted / "cpu", group, _limit_of_v1


def _limit_of_v2(folder: Path) -> tuple[int, int]:
    """By Documentation/admin-guide/cgroup-v2.rst. `max 100000` is no limit, and a ValueError."""
    quota_us, period_us = (folder / "cpu.max").read_text().split()
    return int(quota_us), int(period_us)


def _limit_of_v1(folder: Path) -> tuple[int, int]:
    """By Documentation/scheduler/sched-bwc.rst: -1 is no limit."""
    quota_us, period_us = ((folder / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
    return int(quota_us), int(period_us)
