"""A listener that fails as long as something is not there."""

from pathlib import Path

from durable_bus import Bus

bus = Bus("reading")


@bus.listener("read")
def read(path: str) -> str:
    """The text of a file."""
    return Path(path).read_text()
