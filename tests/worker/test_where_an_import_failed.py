"""An app that cannot be imported is told of with the user's own line, whoever's line it ended in."""

from pathlib import Path

import pytest
from command_line import durable_bus, write_items

pytestmark = pytest.mark.real_start

LISTENER = "from durable_bus import Bus\nbus = Bus('b')\n\n@bus.listener('work')\n"
APPS = {
    "a line of its own": ("\n\n1 / 0\n", "ZeroDivisionError: division by zero (an_app.py, line 3)"),
    "ours": (
        "from durable_bus import Bus\nbus = Bus('b')\n\n@bus.listener('a b')\ndef work(x: str) -> str: ...\n",
        "(an_app.py, line 4)",
    ),
    "an annotation": (
        LISTENER + "def work(x: complex) -> str: ...\n",
        "(an_app.py, line 4)",
    ),
    "a return annotation": (
        LISTENER + "def work(x: str) -> set: ...\n",
        "an answer of set cannot be written: answer a list, or make it a str (an_app.py, line 4)",
    ),
    "the standard library": ("import json\n\njson.loads('{')\n", "(an_app.py, line 3)"),
    "a library": (
        "import msgspec\nimport pydantic\n\npydantic.TypeAdapter(int).validate_python('x')\n",
        "line 4)",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("where", APPS)
def test_the_users_line_is_named(tmp_path: Path, where: str) -> None:
    source, said = APPS[where]
    (tmp_path / "an_app.py").write_text(source)
    items = write_items(tmp_path, "one")
    ran = durable_bus("run", "an_app:bus", "work", "--items", items, "--quiet", "--workers", 1, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.error
