"""Well-behaved listeners. Each run of an item leaves a line in the file that RUN_LOG names."""

import os
import time

from durable_bus import Bus, HandlerMetadata

bus = Bus("plain")


def log_run(index: int, word: str = "run") -> None:
    """One line, `supervisor worker index word`, by O_APPEND: whole and in order, whatever is killed when."""
    path = os.environ.get("RUN_LOG")
    if path:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, f"{os.getppid()} {os.getpid()} {index} {word}\n".encode())
        os.close(fd)


@bus.listener("echo")
def echo(text: str, metadata: HandlerMetadata) -> str:
    log_run(metadata.index)
    return text


@bus.listener("sleep")
def sleep(text: str, metadata: HandlerMetadata) -> str:
    """Takes as many seconds as its text says, without needing a core."""
    log_run(metadata.index)
    time.sleep(float(text))
    return text


@bus.listener("gate")
def gate(text: str, metadata: HandlerMetadata) -> str:
    """Returns when the file that its text names is there: what a test does, not time, decides when."""
    log_run(metadata.index)
    while text and not os.path.exists(text):
        time.sleep(0.005)
    return "open"


@bus.listener("describe")
def describe(text: str, metadata: HandlerMetadata) -> str:
    return "|".join(
        [
            metadata.thread_id,
            metadata.from_id,
            metadata.own_name,
            str(metadata.is_self_call),
            metadata.message_id,
            str(metadata.attempt),
            metadata.buffer_id,
            str(metadata.index),
        ]
    )


@bus.listener("variable")
def variable(name: str) -> str:
    return os.environ.get(name, "none")
