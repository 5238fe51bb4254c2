"""Ids of buffers, requests, messages and threads that nobody has chosen."""

import os
import time

__all__ = ["new_id"]


def new_id() -> str:
    """A UUID version 7 as 32 hexadecimal digits: its first 48 bits are the time in ms (RFC 9562, 5.7).

    In the order of time, so that new rows stand side by side at the end of an index. Random ids dirty a page
    of each index a row, and a commit writes every page that it touched.
    """
    ms = time.time_ns() // 1_000_000 & (1 << 48) - 1
    # As secrets.randbits(74), whose module takes 4 ms of each start, for random, hmac and base64.
    random = int.from_bytes(os.urandom(10)) >> 6
    return f"{ms << 80 | 7 << 76 | random >> 62 << 64 | 2 << 62 | random & (1 << 62) - 1:032x}"
