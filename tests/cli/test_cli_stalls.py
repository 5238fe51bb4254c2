"""Who follows a buffer is told why nothing of it is done."""

from pathlib import Path

import pytest
from command_line import Command, write_items
from support import Facts


@pytest.mark.slow
def test_run_says_once_for_which_limit_it_waits(
    tmp_path: Path, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACE_STARTS", str(tmp_path / "starts"))
    items = write_items(tmp_path, 1, 2, 3)
    rare = ("run", "apps.pace:bus", "rare", "--workers", 1, "--items", items, "--buffer-id", "b")
    command = Command(*rare, cwd=tmp_path)
    facts.until_recorded("b", 1)
    assert "durable-bus: b: waits for limit rare, 59 min" in command.until_said("waits for")
    command.ctrl_c()
    ran = command.ended()
    assert ran.code == 4
    assert "waits for" not in ran.err
