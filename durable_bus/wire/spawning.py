"""Processes that run a module of this package: a supervisor of one's own, workers."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from durable_bus.wire.framing import dump_json

__all__ = ["INSIDE_HANDLER_VARIABLE", "arguments_of", "spawn"]

INSIDE_HANDLER_VARIABLE = "DURABLE_BUS_INSIDE_HANDLER"
"""Set in workers, and so in what their handlers start, to the journal they work for."""

_PACKAGE_PARENT = str(Path(__file__).resolve().parent.parent.parent)


def spawn(module: str, arguments: Mapping[str, Any], fds: Sequence[int]) -> "subprocess.Popen[bytes]":
    """Run a module with these arguments and descriptors, and with our own folder first of PYTHONPATH, however
    we were found. What it prints goes to stderr: stdout is the results'.
    """
    environment = dict(os.environ)
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([_PACKAGE_PARENT, *([inherited] if inherited else [])])
    return subprocess.Popen(
        # -P: else a file of the current folder would be imported in place of Python's own. What the app needs
        # of it comes with the app's own `sys_path`.
        [sys.executable, "-P", "-m", module, dump_json({**arguments, "pythonpath": inherited})],
        pass_fds=fds,
        stdin=subprocess.DEVNULL,
        stdout=2,
        env=environment,
    )


def arguments_of(argument: str) -> dict[str, Any]:
    """In such a process: its arguments. PYTHONPATH is the user's again: a program that a handler starts, such
    as another Python, must not find our packages before its own.
    """
    arguments: dict[str, Any] = json.loads(argument)
    inherited = arguments.pop("pythonpath")
    if inherited is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = inherited
    return arguments
