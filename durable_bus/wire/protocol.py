"""Every frame that crosses a border between processes, as a type: who says it to whom, when, and what is on
disk by then.

A frame is a header, one of these types as JSON, and bodies of payloads (`framing`). Headers are validated
while they are decoded. There is a decoder for each direction: `decode_work` for what a worker reads,
`decode_report` for what the supervisor reads of a worker, `decode_request` of a client, and `decode_answer`
for what a client reads. A frame that fits none of its direction's types is refused with msgspec's own
message.

`README.md` shows three conversations in pictures: a start, an item, a death.
"""

from typing import Any

import msgspec

__all__: list[str] = []


class _Frame(
    msgspec.Struct, tag_field="k", forbid_unknown_fields=True, omit_defaults=True, frozen=True, gc=False
):
    """What all headers have in common. `k` is the tag: the frame's name."""


# ---- supervisor → worker


# ---- worker → supervisor


# ---- client → supervisor


# ---- supervisor → client

_ = Any
