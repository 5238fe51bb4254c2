"""What tests of streams and maps look at in a journal."""

import subprocess
import sys
from pathlib import Path

from support import Facts, environment


def items_of(facts: Facts, buffer_id: str) -> list[str]:
    sql = "SELECT payload FROM items WHERE buffer_id = ? ORDER BY item_index"
    return [payload for (payload,) in facts.rows(sql, buffer_id)]


def is_sealed(facts: Facts, buffer_id: str) -> bool:
    return bool(facts.value("SELECT sealed_at IS NOT NULL FROM buffers WHERE buffer_id = ?", buffer_id))


def is_clean(journal: Path) -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "durable_bus", "check", "--journal", str(journal)],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return True
