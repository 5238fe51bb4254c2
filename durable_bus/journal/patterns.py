"""What messages have in common that differ only in numbers, ids and quoted texts."""

import re
from typing import Final

from durable_bus.errors import one_line

__all__ = ["PATTERN_CHARS_MAX", "message_pattern"]

PATTERN_CHARS_MAX: Final = 200

_LOOKED_AT_CHARS = 2_000
"""What is beyond is not looked at. The pattern of so much is nearly always long enough to be cut."""
_VARIES = re.compile(
    r"""
    (?P<quoted> '[^'\n]*' | "[^"\n]*" | `[^`\n]*` | “[^”\n]*” | ‘[^’\n]*’ | «[^»\n]*» )
    | \b [0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12} \b
    | \b 0[xX][0-9a-fA-F]+ \b
    | \b (?=[a-fA-F]*[0-9]) [0-9a-fA-F]{8,} \b
    | [0-9]+
    """,
    re.VERBOSE,
)
_APOSTROPHE = re.compile(r"(?<=\w)'(?=\w)")
"""As in `can't`: it quotes nothing."""


def message_pattern(text: str) -> str:
    """The message with `#` for each number, hexadecimal number of 8 digits or more, and UUID, and `'…'` for
    each quoted text: one line of at most PATTERN_CHARS_MAX characters.
    """
    line = one_line(text[:_LOOKED_AT_CHARS].replace("\0", " "))
    kept = _APOSTROPHE.sub("\0", line)
    pattern = _VARIES.sub(lambda found: "'…'" if found["quoted"] else "#", kept).replace("\0", "'")
    return pattern if len(pattern) <= PATTERN_CHARS_MAX else pattern[: PATTERN_CHARS_MAX - 1] + "…"
