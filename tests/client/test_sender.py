"""The thread that sends the items of a stream: nothing that is added waits for what comes behind it."""

import threading
from collections.abc import Iterator
from typing import Any

from durable_bus.client.sender import Sender

LONG_S = 60.0


class Sent:
    """In the place of an upload."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def chunks(self, values: list[Any]) -> Iterator[tuple[bytes, bytes]]:
        self.items += values
        yield b"", b""

    def add(self, body: bytes, forms: bytes) -> None:
        pass

    def acknowledged(self) -> int:
        return len(self.items)


def sender_of(sent: Sent) -> Sender:
    return Sender(sent, sent.chunks, 0)  # type: ignore[arg-type]


def test_an_item_alone_is_sent_whenever_it_comes() -> None:
    """Each is added when the thread rests, or is about to: were it not woken once, the item would stay."""
    sent = Sent()
    sender = sender_of(sent)
    for number in range(3_000):
        sender.add(number)
        assert sender.wait_for(lambda: sender.taken > number, LONG_S)  # noqa: B023  it is called at once
    sender.close(LONG_S)
    assert sent.items == [*range(3_000)]


def test_what_many_threads_add_is_sent_once_and_in_the_order_of_each() -> None:
    sent = Sent()
    sender = sender_of(sent)

    def add(producer: int) -> None:
        for number in range(5_000):
            sender.add((producer, number))

    threads = [threading.Thread(target=add, args=(producer,)) for producer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert sender.wait_for(lambda: sender.on_disk == 20_000, LONG_S)
    sender.close(LONG_S)
    for producer in range(4):
        assert [number for of, number in sent.items if of == producer] == [*range(5_000)]


def test_what_was_added_is_sent_before_it_ends() -> None:
    sent = Sent()
    sender = sender_of(sent)
    sender.start()
    sender.waiting += range(10_000)  # as who reads many at once does, without a word
    sender.close(LONG_S)
    assert sent.items == [*range(10_000)]
    assert sender.on_disk == 10_000
