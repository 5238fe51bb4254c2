"""Every named statement is somebody's: SQL that nobody runs goes."""

import re
from pathlib import Path

import pytest
from support import REPOSITORY

from durable_bus.journal.statements import load

PACKAGE = REPOSITORY / "durable_bus"
ALL_ARE_ASKED = {"checking.sql", "questions.sql"}
"""Whoever loads these goes through all that is in them."""
FILES = sorted(path.name for path in Path(PACKAGE, "journal").glob("*.sql"))


@pytest.mark.parametrize("file_name", [name for name in FILES if name not in ALL_ARE_ASKED])
def test_every_named_statement_is_named_by_some_code(file_name: str) -> None:
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    named = set(re.findall(r'"(\w+)"', code))
    assert [name for name in load(file_name) if name not in named] == []
