"""One connection of a client to a supervisor."""

import socket
import threading

import pytest

from durable_bus.client.connection import Connection
from durable_bus.errors import SupervisorLost
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


@pytest.mark.slow
def test_a_connection_to_which_nothing_can_be_sent_is_lost_though_the_other_end_is_there() -> None:
    """Nobody hears what was not sent, nor knows how much of it was: it waited for an answer for ever."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.shutdown(socket.SHUT_WR)
    with theirs:
        connection = Connection(ours, protocol.Hello(request=new_id(), version="1"))
        with pytest.raises(SupervisorLost):
            connection.welcome(LONG_S)
        connection.close()
