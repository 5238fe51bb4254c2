"""A program that was started without standard files, as some that start others in the background do."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE_S, Facts, environment

PROGRAM = """
import os, sys
if __name__ == "__main__":  # its own files come first, and some of them to closed places
    mine = [open(f"{sys.argv[1]}.{n}", "w") for n in range(int(sys.argv[2]))]
import durable_bus

def loud(n):
    print("out", n)
    print("err", n, file=sys.stderr)
    for place in (1, 2):
        os.write(place, b"raw")
    return n + 1

if __name__ == "__main__":
    values = list(durable_bus.map(loud, range(50), journal=sys.argv[1], workers=2))
    with open(sys.argv[1] + ".values", "w") as file:
        print(sum(values), file=file)
"""


@pytest.mark.slow
@pytest.mark.real_start
@pytest.mark.parametrize("own_files", [0, 3])
@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_nothing_of_ours_or_of_its_own_takes_their_place(
    tmp_path: Path, journal: Path, closed: str, own_files: int
) -> None:
    (tmp_path / "loud.py").write_text(PROGRAM)
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "loud.py", str(journal), str(own_files)],
        cwd=tmp_path,
        env=environment(),
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0
    assert Path(f"{journal}.values").read_text() == f"{sum(range(51))}\n"
    assert [Path(f"{journal}.{n}").read_text() for n in range(own_files)] == [""] * own_files
    assert Facts(journal).value("SELECT count(*) FROM results WHERE success") == 50
