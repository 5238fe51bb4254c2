"""Which modules a process loads, for tests of what a start must not pay for."""

import json
import subprocess
import sys

from support import environment

__all__ = ["modules_after", "rooms_of"]


def modules_after(statements: str, *, beside: str = "") -> list[str]:
    """What a fresh process has loaded after these statements, and had not after those of `beside`."""
    source = (
        f"import json, sys\n{beside}\nbefore = set(sys.modules) if {bool(beside)} else set()\n"
        f"{statements}\nprint(json.dumps(sorted(set(sys.modules) - before)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], env=environment(), capture_output=True, text=True, check=True
    )
    modules: list[str] = json.loads(done.stdout)
    return modules


def rooms_of(modules: list[str]) -> set[str]:
    """The package's rooms among them."""
    return {name.split(".")[1] for name in modules if name.startswith("durable_bus.")}
