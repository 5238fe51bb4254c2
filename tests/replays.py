"""What the tests of `durable-bus replay` share."""

import hashlib
import json
from pathlib import Path
from typing import Any

from command_line import durable_bus


def as_json(*arguments: object, cwd: Path, code: int = 0, **options: Any) -> Any:
    ran = durable_bus("replay", *arguments, "--json", cwd=cwd, **options)
    assert ran.code == code, ran.err
    return json.loads(ran.out)


def fingerprints(journal: Path) -> dict[str, str]:
    """Of the file and its log; the -shm is shared memory and not the journal."""
    return {
        suffix: hashlib.sha256(Path(f"{journal}{suffix}").read_bytes()).hexdigest()
        for suffix in ("", "-wal")
        if Path(f"{journal}{suffix}").exists()
    }
