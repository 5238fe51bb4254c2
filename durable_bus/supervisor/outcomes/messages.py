"""Messages on their way: written by whoever causes them, and put back by whoever had them."""

from durable_bus.journal.messages import NewMessage
from durable_bus.supervisor.context import Context

__all__ = ["add", "found_none", "put_back", "wake"]


def add(context: Context, new: NewMessage, message_id: str | None = None) -> None:
    """Write a message."""
    context.journal.messages.add(message_id or context.ports.new_id(), new)
    if not new.settled:
        context.state.waiting_names[new.to_id] = True


def put_back(
    context: Context, message_seq: int, to_id: str, *, due_at: int = 0, interrupted: bool = False
) -> None:
    """Nobody has it any more: it waits again, until `due_at`."""
    context.journal.messages.undeliver(message_seq, due_at=due_at, interrupted=interrupted)
    context.state.waiting_names[to_id] = True


def found_none(context: Context, name: str) -> None:
    """No message to this name waits any more, but for those that are due later."""
    context.state.waiting_names.discard(name)
    due_at = context.journal.messages.next_due_at(name)
    if due_at is None:
        context.state.due_at.discard(name)
    else:
        context.state.due_at[name] = due_at


def wake(context: Context, now_ms: int) -> None:
    """Names whose next attempt has come due have messages waiting again."""
    for name, due_at in list(context.state.due_at.items()):
        if due_at <= now_ms:
            context.state.due_at.discard(name)
            context.state.waiting_names[name] = True
