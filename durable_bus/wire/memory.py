"""What this process does with memory that is freed."""

__all__ = ["keep_freed"]

_KEPT_BYTES = 4 * 1024 * 1024


def keep_freed() -> None:
    """Let malloc keep up to 8 MiB of what is freed, for the next frame, instead of giving it back.

    A batch is some 200 KB, a chunk up to 1.5 MiB. glibc gave back what each had taken, and the next took
    pages anew: 0.05 page faults an item in a client, 0.04 in its workers. Without them `map` of 88 bytes goes
    5 % faster.

    To free a block that was mapped makes glibc take blocks up to its size from the heap, and give back the
    heap's end only beyond twice that (mallopt(3), M_MMAP_THRESHOLD): any program that has freed such a block
    runs like this. Nothing is written to this one: it takes 5 us. Where malloc is another, nothing happens.
    """
    bytes(_KEPT_BYTES)
