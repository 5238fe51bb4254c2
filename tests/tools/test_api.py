"""durable_bus/API.md says what the docstrings say, of every public name."""

import pydoc
import re
import subprocess
import sys

from support import REPOSITORY

import durable_bus

PAGE = (REPOSITORY / "durable_bus" / "API.md").read_text(encoding="utf-8")


def test_the_page_is_what_the_docstrings_say() -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tools" / "api.py", "--check"], stderr=subprocess.PIPE
    )
    assert done.returncode == 0, done.stderr.decode()


def test_every_public_name_has_its_place_on_the_page() -> None:
    named = re.findall(r"^### (\w+)$|^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert {name for pair in named for name in pair} >= set(durable_bus.__all__) - {"__version__"}


def test_dir_and_help_show_the_public_names_with_their_docstrings() -> None:
    assert dir(durable_bus) == sorted([*durable_bus.__all__, "map", "open"])
    assert not {"map", "open"} & set(durable_bus.__all__), "a star import would hide built-ins"
    text = pydoc.plain(pydoc.render_doc(durable_bus))
    for name in set(durable_bus.__all__) - {"__version__"}:
        docstring = getattr(durable_bus, name).__doc__
        assert f"class {name}(" in text
        assert docstring.split("\n")[0].strip() in text
