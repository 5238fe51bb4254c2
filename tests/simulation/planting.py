"""What tests that plant bugs share."""

from pathlib import Path
from typing import Any

import pytest

from durable_bus.errors import DurableBusError
from durable_bus.journal.statements import Statements
from simulation.records import Violation
from simulation.schedule import run_schedule

__all__ = ["change_statement", "is_found"]

SEEDS_TO_FIND_A_BUG = 200


def is_found(folder: Path, first: int = 0, **profile_changes: Any) -> None:
    """One of the schedules from `first` on finds it: without an engine and with room for all processes,
    unless the profile says so. What the supervisor itself notices (a named constraint, the journal's refusal)
    has found it too.
    """
    with pytest.raises((Violation, DurableBusError)):
        for seed in range(first, first + SEEDS_TO_FIND_A_BUG):
            run_schedule(seed, folder, **{"engine": None, "no_room": 0.0, **profile_changes})


def change_statement(monkeypatch: pytest.MonkeyPatch, name: str, *changes: tuple[str, str]) -> None:
    init = Statements.__init__

    def __init__(self: Statements, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        if name in self._texts:
            text = self._texts[name]
            for old, new in changes:
                assert old in text
                text = text.replace(old, new)
            self._texts = {**self._texts, name: text}

    monkeypatch.setattr(Statements, "__init__", __init__)
