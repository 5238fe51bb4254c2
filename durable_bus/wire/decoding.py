"""Headers as they are read: a decoder for each direction, which validates while it decodes."""

from functools import cache

import msgspec

from durable_bus.errors import BufferError, DurableBusError
from durable_bus.wire.parts import Misfit
from durable_bus.wire.protocol import AnyAnswer, AnyRequest, Error, FromClient, Request, ToClient
from durable_bus.wire.work import Report, Work

__all__ = ["decode_answer", "decode_report", "decode_request", "decode_work", "error_frame"]

WORK: msgspec.json.Decoder[Work] = msgspec.json.Decoder(Work)
REPORTS: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)

decode_work = WORK.decode
"""What a worker reads."""
decode_report = REPORTS.decode
"""What the supervisor reads of a worker."""


@cache
def requests() -> msgspec.json.Decoder[Request]:
    """Made when first asked for: a worker needs none, and it takes a millisecond."""
    return msgspec.json.Decoder(AnyRequest)


class _Outline(msgspec.Struct):
    k: object = None
    request: object = None
    version: object = None


_OUTLINES = msgspec.json.Decoder(_Outline)


def decode_request(data: bytes) -> FromClient:
    """What a client has said. Raises ValueError for what is not even a JSON object in UTF-8."""
    try:
        try:
            return requests().decode(data)
        except msgspec.ValidationError as error:
            outline = _OUTLINES.decode(data)
            told = (outline.k, outline.request, outline.version)
            kind, request, version = (text if isinstance(text, str) else None for text in told)
            return Misfit(str(error), kind, request, version)
    except RecursionError:
        raise ValueError("a frame's header is nested too deeply") from None


@cache
def answers() -> msgspec.json.Decoder[ToClient]:
    """The same, for clients."""
    return msgspec.json.Decoder(AnyAnswer)


def decode_answer(data: bytes) -> ToClient:
    """What the supervisor has said. Raises ValueError for what does not fit."""
    return answers().decode(data)


def error_frame(error: DurableBusError, request: str | None = None) -> Error:
    """The refusal of a request. Without one, the connection ends with it."""
    buffer_id = error.buffer_id if isinstance(error, BufferError) else None
    message = error.error if isinstance(error, BufferError) else str(error)
    return Error(request, type(error).__name__, message, buffer_id)
