"""The end of a process is seen by a descriptor, and a slot has its memory, with and without what newer
kernels and headers have.
"""

import errno
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from support import PATIENCE_S, children_of, until

from durable_bus.wire.memory_file import memory_file, read_memory_file
from durable_bus.wire.process_end import kill, watch_end
from durable_bus.wire.slot import SLOT_BYTES, Slot, slot_memory

NAMES = ((os, "pidfd_open"), (os, "memfd_create"), (os, "MFD_CLOEXEC"), (signal, "pidfd_send_signal"))


@pytest.fixture(
    params=["here", "not in Python", errno.ENOSYS, errno.EPERM], ids=["here", "no names", "ENOSYS", "EPERM"]
)
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls as they are here; of a Python that was built with older headers; of an older kernel or
    gVisor; of a container that refuses them.
    """

    def refuses(*_: Any, **__: Any) -> NoReturn:
        raise OSError(request.param, os.strerror(request.param))

    for module, name in NAMES:
        if request.param == "not in Python":
            monkeypatch.delattr(module, name, raising=False)
        elif name == "MFD_CLOEXEC":
            monkeypatch.setattr(module, name, 1, raising=False)
        elif request.param != "here":
            monkeypatch.setattr(module, name, refuses, raising=False)


@pytest.fixture
def sleeper() -> "Iterator[subprocess.Popen[bytes]]":
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def has_ended(fd: int, patience_s: float = 0.0) -> bool:
    return bool(select.select([fd], [], [], patience_s)[0])


@pytest.mark.usefixtures("calls")
class TestTheEndOfAProcess:
    def test_of_a_child_which_is_left_to_be_reaped(self, sleeper: "subprocess.Popen[bytes]") -> None:
        fd = watch_end(sleeper.pid)
        assert not has_ended(fd)
        kill(sleeper.pid, fd)
        assert has_ended(fd, PATIENCE_S)
        # Without a timeout: with one, Python 3.15 has looked long ago whether it may ask for a pidfd.
        assert sleeper.wait() == -signal.SIGKILL
        kill(sleeper.pid, fd)  # it is gone, and nobody is hit
        assert has_ended(fd)
        os.close(fd)

    def test_of_a_child_that_has_ended_before(self, sleeper: "subprocess.Popen[bytes]") -> None:
        sleeper.kill()
        os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
        fd = watch_end(sleeper.pid)
        assert has_ended(fd, PATIENCE_S)
        os.close(fd)

    def test_of_somebody_elses_child(self) -> None:
        source = "import subprocess; subprocess.run(['sleep', '1000'])"
        with subprocess.Popen([sys.executable, "-c", source]) as parent:
            (pid,) = until(lambda: children_of(parent.pid), "it has a child")
            fd = watch_end(pid)
            assert not has_ended(fd)
            kill(pid, fd)
            assert has_ended(fd, PATIENCE_S)
            os.close(fd)

    def test_of_nobody(self, sleeper: "subprocess.Popen[bytes]") -> None:
        sleeper.kill()
        sleeper.wait()
        with pytest.raises(ProcessLookupError):
            watch_end(sleeper.pid)

    def test_a_file_in_memory_holds_what_was_written(self) -> None:
        fd = memory_file("a name", b"1234" * 100_000)
        assert read_memory_file(fd) == b"1234" * 100_000
        assert os.fstat(fd).st_nlink == 0  # it ends with its last descriptor
        os.close(fd)

    def test_a_slot_is_shared(self) -> None:
        fd = slot_memory()
        one, other = Slot(fd), Slot(fd)
        assert os.fstat(fd).st_size == SLOT_BYTES
        assert os.fstat(fd).st_nlink == 0  # it ends with its last descriptor
        assert not os.get_inheritable(fd)
        assert bytes(one.words) == bytes(SLOT_BYTES)
        one.limit = 7
        assert other.limit == 7
        os.close(fd)


def test_another_error_is_none_of_a_missing_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "MFD_CLOEXEC", 1, raising=False)
    for name in ("pidfd_open", "memfd_create"):
        monkeypatch.setattr(os, name, refuses, raising=False)
    with pytest.raises(OSError, match="Too many open files"):
        watch_end(os.getpid())
    with pytest.raises(OSError, match="Too many open files"):
        slot_memory()


def test_without_room_for_a_thread_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(thread: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.setattr(threading.Thread, "start", refuses)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(BlockingIOError, match="can't start new thread"):
        watch_end(os.getppid())
    assert os.listdir("/proc/self/fd") == before
