"""A disk that can be filled."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DISK_BYTES = 12 * 1024 * 1024
NO_MOUNT = (
    "mounting a small tmpfs is not permitted here; a limit of the file size is not the same, because it "
    "comes as EFBIG, an I/O error after which nobody knows what was written, and not as ENOSPC"
)


class Disk:
    """A small file system, and a file on it that takes the rest of its room."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ballast = folder / "ballast"

    def fill(self) -> None:
        fd = os.open(self.ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        os.write(fd, b"x" * size)
                except OSError:
                    continue
        finally:
            os.close(fd)

    def empty(self) -> None:
        self.ballast.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """A new file system at this folder. Where that is not permitted, the test is skipped."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip(NO_MOUNT)
    if done.returncode != 0:
        pytest.skip(NO_MOUNT)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=60)
