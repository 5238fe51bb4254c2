"""The states of buffers, items and messages, which may follow which, and what takes one to the next.

Nothing stores a state: the views derive each from columns that name the commits that made a row's
transitions. This is the one place that says which are allowed. README.md beside this file draws it; a test
holds the drawing, the views and what a journal goes through equal to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["BUFFER", "ITEM", "MACHINES", "MESSAGE", "NOTHING", "StateMachine"]

NOTHING = "·"
"""There is no row: not yet, or not any more."""


@dataclass(frozen=True)
class StateMachine:
    """`transitions`: what takes a state to the next, by (from, to)."""

    name: str
    transitions: Mapping[tuple[str, str], str]

    @property
    def states(self) -> frozenset[str]:
        """As the view's column `state` names them."""
        return frozenset(state for pair in self.transitions for state in pair) - {NOTHING}

    def allows(self, before: str, after: str) -> bool:
        """Whether a commit may find one in the state `before` and leave it in `after`.

        A commit records first and plans then: what has begun to wait may be handed out in the same one.
        """
        direct = before == after or (before, after) in self.transitions
        return direct or (
            (before, "waiting") in self.transitions
            and ("waiting", after) in self.transitions
            and after in ("in_flight", "delivered")
        )


BUFFER = StateMachine(
    "buffer",
    {
        (NOTHING, "receiving"): "its first items come",
        (NOTHING, "open"): "its items come all at once",
        ("receiving", "open"): "all are on disk",
        ("receiving", NOTHING): "given up",
        ("open", "complete"): "the last result",
        ("open", "cancelled"): "cancel",
        ("complete", "pruned"): "prune",
        ("cancelled", "pruned"): "prune",
    },
)

ITEM = StateMachine(
    "item",
    {
        (NOTHING, "waiting"): "its chunk comes",
        ("waiting", "in_flight"): "handed to a worker",
        ("in_flight", "waiting"): "given back, or to be tried again",
        ("in_flight", "succeeded"): "an answer",
        ("in_flight", "failed"): "an error, or attempts used up",
        ("in_flight", "forwarded"): "its handler passed it on",
        ("forwarded", "succeeded"): "a response, or None",
        ("forwarded", "failed"): "its thread ends otherwise",
        ("waiting", "missing"): "cancel",
        ("in_flight", "missing"): "cancel",
        ("forwarded", "missing"): "cancel",
        ("waiting", NOTHING): "its buffer is given up",
        ("succeeded", NOTHING): "prune",
        ("failed", NOTHING): "prune",
        ("missing", NOTHING): "prune",
    },
)

MESSAGE = StateMachine(
    "message",
    {
        (NOTHING, "waiting"): "written",
        (NOTHING, "settled"): "written, with nobody to get it",
        (NOTHING, "failed"): "written, to a name it may not go to",
        ("waiting", "delivered"): "handed to a worker or receiver",
        ("delivered", "waiting"): "given back, or to be tried again",
        ("delivered", "settled"): "an outcome, or an acknowledgement",
        ("delivered", "failed"): "attempts used up",
        ("waiting", "settled"): "acknowledged by who had it before",
        ("settled", "waiting"): "the same start again",
        ("settled", NOTHING): "prune",
        ("failed", NOTHING): "prune",
    },
)

MACHINES = {machine.name: machine for machine in (BUFFER, ITEM, MESSAGE)}
