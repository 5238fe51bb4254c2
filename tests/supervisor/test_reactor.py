"""What became ready together may end together: whoever was forgotten meanwhile is not called any more."""

import os
from collections.abc import Callable, Iterator

import pytest

from durable_bus.supervisor.io.reactor import SelectorReactor


@pytest.fixture
def ready_fds() -> Iterator[list[int]]:
    """Three descriptors of which each can be read."""
    pipes = [os.pipe() for _ in range(3)]
    for _, write_fd in pipes:
        os.write(write_fd, b"x")
    yield [read_fd for read_fd, _ in pipes]
    for fds in pipes:
        for fd in fds:
            os.close(fd)


def test_a_descriptor_forgotten_by_an_earlier_callback_of_the_same_poll_is_not_called(
    ready_fds: list[int],
) -> None:
    """As when a worker's exit and the end of its pipe are seen at once, in either order."""
    reactor = SelectorReactor()
    called: list[int] = []

    def ends_all(fd: int) -> Callable[[int], None]:
        def callback(mask: int) -> None:
            called.append(fd)
            for other in ready_fds:
                reactor.forget(other)

        return callback

    for fd in ready_fds:
        reactor.watch(fd, ends_all(fd))
    reactor.poll(0)
    assert len(called) == 1


def test_a_descriptor_watched_anew_during_a_poll_is_called_for_what_it_is_watched_for_now(
    ready_fds: list[int],
) -> None:
    reactor = SelectorReactor()
    called: list[str] = []

    def replaces_the_others(fd: int) -> Callable[[int], None]:
        def callback(mask: int) -> None:
            called.append("first")
            for other in ready_fds:
                if other != fd:
                    reactor.watch(other, lambda mask: called.append("replaced"))

        return callback

    for fd in ready_fds:
        reactor.watch(fd, replaces_the_others(fd))
    reactor.poll(0)
    assert called == ["first", "replaced", "replaced"]
