"""How many rows are read at once: many short ones, or few long ones, so that memory stays flat."""

__all__ = ["PAGE_CHARS", "fitting"]

PAGE_CHARS = 1024 * 1024
"""A page of what is read ends with the payload that reaches this."""


def fitting(count: int, size: int, size_max: int) -> int:
    """How many rows to take next, when `count` of them were `size` long together: as many as fit into
    `size_max`, one at least, and at most four times more than before, as the next ones may be longer.
    """
    return max(1, min(4 * count, count * size_max // max(1, size)))
