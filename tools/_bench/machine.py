"""What the figures were measured on."""

import os
import platform
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from lxml import etree


def machine(folder: Path) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "lxml": ".".join(map(str, etree.LXML_VERSION[:3])),
        "file_system": file_system(folder),
        "fdatasync_ms": fdatasync_ms(folder),
    }


def file_system(folder: Path) -> str:
    """The kind of file system a folder lies on: on tmpfs an fsync costs nothing, and the figures say
    nothing.
    """
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    at = [(mount, kind) for mount, kind in mounts if folder.resolve().is_relative_to(mount)]
    return max(at, key=lambda pair: len(pair[0]))[1] if at else "unknown"


def fdatasync_ms(folder: Path) -> float:
    """What durability costs here at least: the median of 50 appends of 4 KiB with fdatasync."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        return round(statistics.median(append_s(file) * 1000 for _ in range(50)), 2)


def append_s(file: IO[bytes]) -> float:
    """How long an append of 4 KiB with fdatasync takes now, less the append."""
    file.write(bytes(4096))
    begun_s = time.perf_counter()
    os.fdatasync(file.fileno())
    return time.perf_counter() - begun_s
