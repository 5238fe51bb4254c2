"""What the supervisor remembers is what the rows say."""

from typing import TYPE_CHECKING

from simulation.records import Violation

if TYPE_CHECKING:
    from simulation.machine import Machine

__all__ = ["memory_is_the_journal"]


def memory_is_the_journal(machine: "Machine") -> None:
    """After a turn that has committed something. Raises Violation."""
    if machine.supervisor is None:
        return
    state, model = machine.supervisor.state, machine.model
    rows = model.query(
        "SELECT buffer_seq, succeeded + failed, failed, received, sealed_commit IS NOT NULL FROM buffer"
        " WHERE opened_commit IS NOT NULL AND ended_commit IS NULL"
    )
    found = [(one.seq, one.recorded, one.failed, one.total, one.sealed) for one in state.buffers.values()]
    if sorted(found) != sorted(rows):
        raise Violation(f"in memory (buffer, recorded, failed, total, sealed) are {found}, on disk {rows}")
    for hand in state.workers.values():
        held = sum(len(one.open_positions()) for one in state.held_by(hand))
        if hand.unanswered != held:
            raise Violation(f"worker {hand.worker_id} holds {held} items, counted are {hand.unanswered}")
    for root, budget in state.budgets.items():
        granted = dict(
            model.query("SELECT unit, sum(amount) FROM budget WHERE buffer_seq = ? GROUP BY 1", root)
        )
        spent = dict(
            model.query(
                "SELECT unit, sum(amount) FROM spent JOIN buffer USING (buffer_seq) WHERE budget_of = ?"
                " GROUP BY unit",
                root,
            )
        )
        if (budget.granted, budget.spent) != (granted, spent):
            raise Violation(
                f"the budget of buffer {root} is {budget} in memory, on disk {granted} and {spent}"
            )
