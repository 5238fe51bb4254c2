"""Whoever imports this wants a supervisor, or a daemon: those are for Linux."""

import sys

from durable_bus.errors import UnsupportedPlatform

if not sys.platform.startswith("linux"):
    raise UnsupportedPlatform(f"durable_bus needs Linux; this is {sys.platform}")
