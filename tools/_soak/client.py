"""A client of the soak: a process that starts buffers, and writes down what it is told."""

import contextlib
import os
import time
from pathlib import Path

from _soak.orders import Order
from durable_bus.client.client import Client
from durable_bus.errors import JournalUnreachable, SupervisorLost, TimedOut

OUTSTANDING_MAX = 20


class Notes:
    """What a client has been told, written down at once: whole lines, also when it is killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, *words: object) -> None:
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())

    def read(self) -> list[list[str]]:
        return [line.split() for line in self.path.read_text().splitlines()]


def run_client(folder: Path, number: int, seed: int) -> None:
    """Start buffers, be told of their ends, write both down; go on where the last process was killed."""
    notes = Notes(folder / f"client{number}.notes")
    said = notes.read()
    started = {words[1] for words in said if words[0] == "started"}
    outstanding = started - {words[1] for words in said if words[0] == "received"}
    # Not one that it was told of: its end may have come already, and comes once.
    unsure = [words[1] for words in said if words[0] == "starting" and words[1] not in started][-1:]
    sequence = sum(1 for words in said if words[0] == "starting")
    stop = folder / "stop"
    while True:
        try:
            client = Client(folder / "journal.db", name=f"box{number}")
            break
        except (JournalUnreachable, SupervisorLost):
            time.sleep(0.1)
    with client:
        while outstanding or unsure or not stop.exists():
            if unsure or (len(outstanding) < OUTSTANDING_MAX and not stop.exists()):
                # Killed before it was told, a client does not know: it asks for the same again.
                buffer_id = unsure.pop() if unsure else f"c{number}-{sequence}"
                if buffer_id.endswith(f"-{sequence}"):
                    sequence += 1
                    notes.write("starting", buffer_id)
                order = Order.of(seed, buffer_id)
                begun_s = time.monotonic()
                client.start(order.target, order.items, buffer_id=buffer_id, return_to=f"box{number}")
                notes.write("started", buffer_id, f"{time.monotonic() - begun_s:.6f}")
                outstanding.add(buffer_id)
            take(client, notes, outstanding, 0.0 if len(outstanding) < OUTSTANDING_MAX else 1.0)


def take(client: Client, notes: Notes, outstanding: set[str], timeout_s: float) -> None:
    with contextlib.suppress(TimedOut):
        message = client.receive(timeout_s)
        buffer_id = message.payload.partition("<buffer_id>")[2].partition("<")[0]
        notes.write("received", buffer_id, message.message_id)
        client.acknowledge(message)
        outstanding.discard(buffer_id)
