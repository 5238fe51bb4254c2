"""What is freed is kept for the next frame: no page is asked for again."""

import os
import subprocess
import sys

import pytest

FREED_AND_TAKEN = """
import resource
{first}
def frames():
    taken = [bytearray(b"x") * 1_000_000 for _ in range(4)]
for _ in range(3):
    frames()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    frames()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
KEEPING = "from durable_bus.wire.memory import keep_freed; keep_freed()"


def page_faults(first: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FREED_AND_TAKEN.format(first=first)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(
    not (os.confstr_names.get("CS_GNU_LIBC_VERSION") and os.confstr("CS_GNU_LIBC_VERSION")),
    reason="this system's malloc is not glibc's",
)
def test_memory_that_frames_have_freed_is_taken_again_without_page_faults() -> None:
    given_back, kept = page_faults(""), page_faults(KEEPING)
    assert given_back > 5_000, "four frames of 1 MB are some 1,000 pages, ten times"
    assert kept < 500
