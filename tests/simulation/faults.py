"""What goes wrong, and how often: beside a supervisor, and in an engine."""

import random
from dataclasses import dataclass
from typing import Literal

__all__ = ["Engine", "Faults", "NoRoom"]


class NoRoom(OSError):
    """For one more process."""


@dataclass
class Faults:
    """What goes wrong by itself, as probabilities; all zero: nothing does."""

    commit: float = 0.0
    """Per commit: one of `kinds`."""
    kinds: tuple[str, ...] = ()
    answer_twice: float = 0.0
    read_in_parts: float = 0.0
    boot: float = 0.0
    no_room: float = 0.0
    """Per process that is to be started: there is no room for one more."""
    freeze: float = 0.0
    """Per step of a worker: it is stopped right there, for a while or for good."""
    pause: float = 0.0
    """Per turn: the supervisor does not get to run, for up to a minute."""
    pipe_frames: int = 100
    """How many frames a worker's pipe holds; then the worker waits for the supervisor to read."""


@dataclass(frozen=True)
class Engine:
    """What an engine is like, and how often it goes wrong."""

    places: int = 4
    """How many dispatches its process may hold at most; what it says is drawn at each boot."""
    neighbours: Literal["none", "some", "all"] = "none"
    """Who is lost with a batch whose process dies: nobody, some, or all that the engine has."""
    refuse: float = 0.0
    """Per batch: its worker refuses it, as it has other code."""
    submit: float = 0.0
    """Per batch: the engine does not take it. It goes back like one that was refused."""
    gone: float = 0.0
    """Per turn of the engine process: nothing more comes of the engine."""
    late_reply: float = 0.0
    """Per batch that was given up: what it answers is written all the same."""
    slow: float = 0.0
    """Per batch: the engine begins it when its time is nearly over, or later."""
    goes_on: float = 0.5
    """Per batch that was given up: it goes on where it runs."""

    @classmethod
    def draw(cls, rng: random.Random) -> "Engine | None":
        """In a quarter of all schedules there is one."""
        if rng.random() >= 0.25:
            return None

        def rate(*values: float) -> float:
            return rng.choice([0.0, 0.0, *values])

        return cls(
            places=rng.choice([1, 2, 4, 8]),
            neighbours=rng.choice(["none", "some", "all"]),
            refuse=rate(0.02, 0.2),
            submit=rate(0.02, 0.1),
            gone=rate(0.01, 0.05),
            late_reply=rate(0.5, 1.0),
            slow=rate(0.02, 0.1),
            goes_on=rng.choice([0.0, 0.5, 1.0]),
        )

    def without_faults(self) -> "Engine":
        return Engine(self.places, self.neighbours)
