"""durable_bus/README.md names every file of the package, and none that is not there."""

import re

from support import REPOSITORY

PACKAGE = REPOSITORY / "durable_bus"


def test_the_guide_names_every_file_and_folder() -> None:
    there = {path.name for path in PACKAGE.glob("*.py")}
    there |= {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    rows = re.findall(r"^\| (`.+?) \|", (PACKAGE / "README.md").read_text(), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w./]+)`", row)]
    assert len(named) == len(set(named)), "a file stands in one place"
    assert set(named) == there
