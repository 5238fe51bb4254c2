"""A call of `map` that a worker would come to."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import (
    environment,
)

from durable_bus.client.stream import AHEAD

READ_MAX = AHEAD


UNGUARDED = """
import sys, tempfile, durable_bus

def double(number):
    return 2 * number

print(list(durable_bus.map(double, [1], journal=JOURNAL, workers=1)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["'journal.db'", "tempfile.mkdtemp() + '/journal.db'"])
@pytest.mark.parametrize("form", ["script", "module", "imported"])
def test_a_call_without_a_guard_is_one_clear_error(tmp_path: Path, where: str, form: str) -> None:
    """Also where each call has a journal of its own, so that supervisors could start one another for ever."""
    source = UNGUARDED.replace("JOURNAL", where)
    path = tmp_path / "unguarded.py"
    path.write_text(source)
    (tmp_path / "importing.py").write_text("import unguarded\n")
    command = {"script": ["unguarded.py"], "module": ["-m", "unguarded"], "imported": ["importing.py"]}[form]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**environment(), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("durable_bus.errors.BusNotImportable: importing ")
    assert 'put it under `if __name__ == "__main__":`' in last
