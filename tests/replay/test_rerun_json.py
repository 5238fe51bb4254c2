"""`replay rerun` over JSON: fields are compared, and shown, one by one."""

import json
from pathlib import Path

import pytest
from command_line import durable_bus
from support import Facts

HANDLERS = """
from typing import Any

from durable_bus import Bus, Json

bus = Bus("handlers")


@bus.listener("shape")
def shape(value: dict[str, Any]) -> Any:
    return Json(value[WHICH])
"""


def differences(tmp_path: Path, before: object, now: object) -> tuple[int, list[str]]:
    """Exit code and output of `rerun`, of one item whose answer was the one and is the other."""
    item = {"before": before, "now": now, "evil": "\x1b[31m"}
    (tmp_path / "items.jsonl").write_text(json.dumps(item) + "\n")
    handlers = tmp_path / "handlers.py"
    handlers.write_text(HANDLERS.replace("WHICH", '"before"'))
    command = ("--items", "items.jsonl", "--buffer-id", "b", "--workers", 1, "--quiet")
    assert durable_bus("run", "handlers:bus", "shape", *command, cwd=tmp_path).code == 0
    handlers.write_text(HANDLERS.replace("WHICH", '"now" '))
    for cached in tmp_path.glob("__pycache__/handlers*"):
        cached.unlink()
    ran = durable_bus("replay", "rerun", "b", "handlers:bus", "--workers", 1, cwd=tmp_path)
    assert "\x1b" not in ran.out
    return ran.code, ran.out.splitlines()


@pytest.mark.slow
def test_the_fields_that_differ_are_shown_with_their_paths(tmp_path: Path, facts: Facts) -> None:
    before = {"b": 1, "a": {"list": [1, "x\x1b"], "gone": None}}
    code, lines = differences(tmp_path, before, {"a": {"list": [1, "y\x9b"]}, "b": 1})
    assert code == 1
    assert lines[0].startswith('item 0: {"before":{"b":1,')
    assert [line for line in lines[1:] if line[4:6] in ("- ", "+ ")] == [
        "    - a.gone: null",
        '    - a.list[1]: "x\\u001b"',
        '    + a.list[1]: "y\\u009b"',
    ]
    assert lines[-1] == "1 answers compared, 1 differ"


@pytest.mark.slow
def test_of_a_big_object_what_differs_is_shown(tmp_path: Path) -> None:
    before = {f"field{number:03}": number for number in range(200)}
    code, lines = differences(tmp_path, before, before | {"field150": "other"})
    assert code == 1
    assert lines[1:-1] == ["    - field150: 150", '    + field150: "other"']


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "now", "code"),
    [({"a": 1, "b": 2}, {"b": 2, "a": 1}, 0), ({"a": 1}, {"a": True}, 1), ([1], [1.5], 1), ("x", "x", 0)],
)
def test_the_order_of_keys_is_no_difference_and_another_type_is(
    tmp_path: Path, before: object, now: object, code: int
) -> None:
    assert differences(tmp_path, before, now)[0] == code
