"""The processes of the soak, as /proc tells of them."""

import contextlib
import os
from pathlib import Path

from _soak import ROOT


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def state_of(pid: int) -> str:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def children_of(pid: int) -> list[int]:
    """Those that any of its threads has started."""
    with contextlib.suppress(OSError):
        threads = [*Path(f"/proc/{pid}/task").iterdir()]
        found = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
        return [child for child in found if state_of(child) not in ("Z", "")]
    return []
