"""Writes limits, budgets, and what is spent. Call every method inside `Journal.commit()`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from durable_bus.journal.journal import Journal

__all__ = ["LimitRow", "PaceTable"]


class LimitRow(NamedTuple):
    """A row of the table `limit_state`; its columns are explained in `migrations/0004_pace.sql`."""

    name: str
    declared: int
    app_rate: str | None
    app_running: int | None
    adaptive: int
    by_hand: int
    rate: str | None
    running: int | None
    allowed: float | None
    tokens: float
    tokens_at: int
    tokens_at_ns: int
    not_begun: int
    in_hand: int
    rests_until: int


class PaceTable:
    """Limits, budgets, and what is spent."""

    def __init__(self, journal: "Journal") -> None:
        self._journal = journal
        self._statements = journal.statements
        self._write = journal.write

    def limits(self) -> list[LimitRow]:
        """Every limit that an app of this journal ever had, as it was written last."""
        return [LimitRow(*row) for row in self._statements.all("limit_states")]

    def set_limit(self, **columns: Any) -> None:
        """How a limit is at the end of this commit. `columns`: of `LimitRow`, without `tokens_at`."""
        self._write("set_limit_state", **columns)

    def note_change(self, name: str, cause: str, **columns: Any) -> None:
        """A limit was set or rested. `cause`: app, hand, reset, rest or slower."""
        self._write("add_limit_change", name=name, cause=cause, **columns)

    def grant(self, buffer_seq: int, budget: Mapping[str, float]) -> None:
        """A buffer may spend so much more, by unit."""
        for unit, amount in budget.items():
            self._write("add_budget", buffer_seq=buffer_seq, unit=unit, amount=amount)

    def budget(self, buffer_seq: int) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """By unit: what a buffer may spend, what is spent of it, and what it was given first."""
        rows = self._statements.all("budgets_of", buffer_seq=buffer_seq)
        spent = dict(self._statements.all("spent_of_budget", buffer_seq=buffer_seq))
        return {row[0]: row[1] for row in rows}, spent, {row[0]: row[2] for row in rows}

    def spend_on_item(
        self, dispatch_id: int, index: int, number: int, amounts: dict[str, float]
    ) -> tuple[int | None, dict[str, float]]:
        """What the handling of an item has spent. The item's buffer, None when it is not there any more; and
        what of it was not there before: what is said twice is spent once.
        """
        facts = {"dispatch_id": dispatch_id, "item_index": index, "number": number}
        new = {
            unit: amount
            for unit, amount in amounts.items()
            if self._write("add_spent_of_item", unit=unit, amount=amount, **facts)
        }
        return self._statements.value("buffer_of_dispatch", dispatch_id=dispatch_id), new

    def spend_on_message(
        self, message_seq: int, buffer_seq: int | None, number: int, amounts: dict[str, float]
    ) -> dict[str, float]:
        """The same of a message. `buffer_seq`: of the nearest item on its thread; None: there is none."""
        facts = {"message_seq": message_seq, "buffer_seq": buffer_seq, "number": number}
        return {
            unit: amount
            for unit, amount in amounts.items()
            if self._write("add_spent_of_message", unit=unit, amount=amount, **facts)
        }
