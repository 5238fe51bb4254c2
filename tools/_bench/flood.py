"""`flood`: how long an honest client's start takes beside a client that asks without end.

The flooding client is a process of its own, of the same user. It says `status` as fast as its socket takes
it, and reads either nothing, or everything as fast as it can.
"""

import argparse
import multiprocessing
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from _bench.app import items_of
from _bench.figures import percentiles, progress, show_percentiles
from _bench.processes import daemon, keyboard_shut, peak_mb
from durable_bus import Client, __version__
from durable_bus.wire.framing import encode
from durable_bus.wire.protocol import AskStatus, Hello
from durable_bus.wire.socket_file import connect_daemon

START_ITEMS = 10
WRITE_FRAMES = 1000
"""How many the flooding client has ready to be written at once."""


def flooding_process(journal: Path, reads: bool, pipe: Connection) -> None:
    """Say so when the flood has begun, and go on until killed."""
    connection: socket.socket = connect_daemon(journal)
    connection.sendall(encode(Hello("0", version=__version__, needs_app=False)))
    connection.setblocking(False)
    data = encode(AskStatus("1")) * WRITE_FRAMES
    rest = memoryview(data)
    while True:
        readable, writable, _ = select.select([connection] if reads else [], [connection], [], 1.0)
        if readable and not connection.recv(1 << 20):
            raise EOFError("the daemon has hung up")
        if writable:
            rest = rest[connection.send(rest) :] or memoryview(data)
            if not pipe.closed:
                pipe.send("begun")
                pipe.close()


@contextmanager
def flooding(journal: Path, *, reads: bool) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=flooding_process, args=(journal, reads, theirs), daemon=True)
    with keyboard_shut():
        process.start()
    theirs.close()
    try:
        ours.recv()
        yield
    finally:
        process.kill()
        process.join()


def starts(client: Client, options: argparse.Namespace) -> dict[str, Any]:
    """One start after the other: from the call until it is acknowledged."""
    items = items_of(options.payload, START_ITEMS)
    samples_s = []
    for _ in range(options.flood_starts):
        begun_s = time.perf_counter()
        buffer = client.start("echo", items)
        samples_s.append(time.perf_counter() - begun_s)
        assert buffer.wait().successful == START_ITEMS
    return percentiles(samples_s)


def flood(options: argparse.Namespace) -> dict[str, Any]:
    """Each on a daemon of its own, first without and then beside the flood."""
    measured: dict[str, Any] = {"items_each": START_ITEMS}
    for name, reads in (("reads_nothing", False), ("reads_everything", True)):
        progress(f"flood: a client that {name.replace('_', ' ')}")
        with daemon(options.folder, options.workers) as (journal, pid), Client(journal) as client:
            alone, alone_mb = starts(client, options), peak_mb(pid)
            with flooding(journal, reads=reads):
                beside = starts(client, options)
            measured[name] = {
                "alone": alone,
                "beside": beside,
                "supervisor_peak_alone_mb": round(alone_mb, 1),
                "supervisor_peak_mb": round(peak_mb(pid), 1),
            }
    return measured


def show_flood(measured: dict[str, Any]) -> None:
    print(
        f"    flood: {measured['items_each']}-item buffers, one after the other, from the call until "
        "acknowledged, beside a client that says `status` without end"
    )
    for name in ("reads_nothing", "reads_everything"):
        facts = measured[name]
        show_percentiles("without it", facts["alone"])
        show_percentiles(f"it {name.replace('_', ' ')}", facts["beside"])
        print(
            f"    supervisor's peak memory {facts['supervisor_peak_mb']:.0f} MB, "
            f"{facts['supervisor_peak_alone_mb']:.0f} MB before the flood"
        )
