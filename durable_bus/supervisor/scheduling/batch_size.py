"""How long an item of each listener takes, as this run has seen it, and how many make its next batch."""

from durable_bus.supervisor.scheduling import rules
from durable_bus.supervisor.state import State

__all__ = ["forget", "next_batch", "saw"]


def saw(state: State, listener: str, item_count: int, total_us: int) -> None:
    """`item_count` items took `total_us` microseconds together."""
    mean_us = total_us / item_count
    before = state.item_us.get(listener)
    state.item_us[listener] = mean_us if before is None else (before + mean_us) / 2


def next_batch(state: State, listener: str, concurrency: int, wall_us: int) -> int:
    """How many items to hand out at once; `last_batch` says how many they were the last time."""
    item_us = state.item_us.get(listener)
    return rules.batch_items(state.last_batch.get(listener), item_us, concurrency, wall_us)


def forget(state: State) -> None:
    """New code may have another pace."""
    for listener in [*state.item_us]:
        state.item_us.discard(listener)
    for listener in [*state.last_batch]:
        state.last_batch.discard(listener)
