"""Handlers that wait for a bus inside themselves: their own, which is refused, or another."""

import os
import subprocess
import sys

from apps import plain
from durable_bus import Bus, Client, Text

bus = Bus("waiting")


@bus.listener("client")
def client(path: str) -> Text:
    with Client(path) as inner:
        return Text(str(inner.start("wait", ["x"]).wait(60).successful))


@bus.listener("running")
def running(path: str) -> Text:
    with plain.bus.running(journal=path, workers=1) as inner:
        return Text(str(inner.start("echo", ["x"]).wait(60).successful))


@bus.listener("subprocess")
def in_subprocess(path: str) -> Text:
    """In a process that the handler starts."""
    code = f"from durable_bus import Client; Client({path!r})"
    ended = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return Text(ended.stderr.strip().splitlines()[-1])


@bus.listener("folder")
def folder(path: str) -> Text:
    """By another name of the same journal."""
    os.chdir(os.path.dirname(path))
    with Client(os.path.basename(path)):
        return Text("opened")
