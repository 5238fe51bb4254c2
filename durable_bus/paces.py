"""How many items make a batch: as many as take 40 ms, by how long items of their listener have taken."""

__all__ = ["BATCH_ITEMS_MAX", "Paces"]

BATCH_WALL_US = 40_000
BATCH_ITEMS_MAX = 2_000


class Paces:
    """How long an item of each listener takes. Advice only, so it is not staged."""

    def __init__(self) -> None:
        self._item_us: dict[str, float] = {}
        self._batch: dict[str, int] = {}

    def saw(self, listener: str, item_count: int, total_us: int) -> None:
        """`item_count` items took `total_us` microseconds together."""
        mean_us = total_us / item_count
        before = self._item_us.get(listener)
        self._item_us[listener] = mean_us if before is None else (before + mean_us) / 2

    def batch_items(self, listener: str, concurrency: int) -> int:
        """How many items to hand out at once: 1 for a listener that is new to this run, then at most four
        times more.
        """
        size = self._batch.get(listener, max(1, concurrency // 4))
        aim = self._aim(listener, concurrency)
        if aim is not None:
            size = max(1, min(aim, size * 4, BATCH_ITEMS_MAX))
            self._batch[listener] = size
        return size

    def in_hand_items(self, listener: str, concurrency: int, batch_items: int) -> int:
        """How many items a worker may have in hand: two batches, or of items so fast that a batch is shorter
        than it aims at, as many as take two such times, at most four batches.

        With two batches of 2,000 items that take 2 us each, a worker ran dry while the supervisor waited for
        a core or for the disk: 5 % (200,000 items).
        """
        aim = self._aim(listener, concurrency) or batch_items
        return max(2 * concurrency, min(2 * max(aim, batch_items), 4 * batch_items))

    def _aim(self, listener: str, concurrency: int) -> int | None:
        """How many items take `BATCH_WALL_US`; None when nobody knows yet."""
        item_us = self._item_us.get(listener)
        return None if item_us is None else int(BATCH_WALL_US * concurrency / max(item_us, 1.0))

    def item_us(self, listener: str) -> float:
        return self._item_us.get(listener, 0.0)

    def forget(self) -> None:
        """New code may have another pace."""
        self._item_us.clear()
        self._batch.clear()
