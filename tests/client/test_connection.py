"""One connection of a client to a supervisor."""

import socket
import threading

from durable_bus.client.connection import Connection
from durable_bus.wire import protocol
from durable_bus.wire.ids import new_id

LONG_S = 60.0


def test_a_chunk_is_sent_while_the_supervisor_reads_nothing() -> None:
    """It commits the chunk before: the next one is to be there when it is done with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        connection = Connection(ours, protocol.Hello(request=new_id(), version="1"))
        chunk = protocol.Chunk(new_id(), 0, 3_000, "0")
        sending = threading.Thread(target=connection.send, args=(chunk, b"x" * 300_000), daemon=True)
        sending.start()
        sending.join(LONG_S)
        assert not sending.is_alive(), "Linux gives 212,992 bytes unless it is asked for more"
        connection.close()
