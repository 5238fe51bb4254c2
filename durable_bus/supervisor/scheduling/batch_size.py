"""How long an item of each listener takes, and how many of them made its last batch."""

from durable_bus.supervisor.scheduling import rules as scheduling

__all__ = ["Paces"]


class Paces:
    """Learned while a run lasts. Advice only, so it is not staged."""

    def __init__(self) -> None:
        self._item_us: dict[str, float] = {}
        self._batch: dict[str, int] = {}
        self.wall_us = scheduling.BATCH_WALL_US
        """How long a batch should take."""

    def saw(self, listener: str, item_count: int, total_us: int) -> None:
        """`item_count` items took `total_us` microseconds together."""
        mean_us = total_us / item_count
        before = self._item_us.get(listener)
        self._item_us[listener] = mean_us if before is None else (before + mean_us) / 2

    def batch_items(self, listener: str, concurrency: int) -> int:
        """How many items to hand out at once. Each call lets it grow: with many workers it grows fast."""
        item_us = self._item_us.get(listener)
        size = scheduling.batch_items(self._batch.get(listener), item_us, concurrency, self.wall_us)
        if item_us is not None:
            self._batch[listener] = size
        return size

    def item_us(self, listener: str) -> float | None:
        """Microseconds, None when none has ended in this run."""
        return self._item_us.get(listener)

    def forget(self) -> None:
        """New code may have another pace."""
        self._item_us.clear()
        self._batch.clear()
