"""The settings of a listener, as every process sees them."""

import msgspec

__all__ = ["ListenerSettings"]


class ListenerSettings(msgspec.Struct, frozen=True, gc=False):
    """What the options of `Bus.listener` have come to. A worker reports them, the supervisor goes by them and
    journals them with its run, a client reads them as plain values.
    """

    name: str
    timeout_s: float | None
    """Seconds that an attempt may take; None: no limit."""
    attempts: int
    """How often an exception or a time-out is answered by another attempt, the first one counted."""
    backoff_s: float
    """Seconds before the second attempt, doubled for each further one."""
    concurrency: int
    """How many run at once in each worker; 1 for a sync handler."""
    is_async: bool
    peers: tuple[str, ...] | None
    """The names that the handler may send to; None: all."""
