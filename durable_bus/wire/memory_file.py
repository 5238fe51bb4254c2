"""A file without a name, which processes have by its descriptor alone."""

import os

from durable_bus.wire.process_end import fd_if_here

__all__ = ["memory_file", "read_memory_file"]

_SHM = "/dev/shm"


def memory_file(name: str, content: bytes) -> int:
    """A descriptor of a file in memory with this content. `name` is for who lists descriptors. It is a file
    of a folder, without a name there, where there is no memfd, which is where there are no pidfds
    (`process_end`). The caller closes it. Raises OSError when there is no room.
    """
    fd = fd_if_here("memfd_create", name)
    if fd is not None:
        try:
            _write(fd, content)
        except BaseException:
            os.close(fd)
            raise
        return fd
    import tempfile  # 5 ms

    folder = _SHM if os.access(_SHM, os.W_OK) else None
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        _write(file.fileno(), content)
        return os.dup(file.fileno())


def read_memory_file(fd: int) -> bytes:
    """All that is in it."""
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def _write(fd: int, content: bytes) -> None:
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
