"""JSON on its way in and out: written compact by msgspec, and strictly. What JSON cannot hold is refused,
never bent: msgspec alone would write NaN as null, a set as an array, and the key 1 as "1".

The field's reference is RFC 8259. Beyond it: no lone surrogates, at most JSON_DEPTH_MAX deep, because
SQLite's JSON functions stop at 1,000 and would then refuse every query over all rows.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import re
import sys
import uuid
from typing import Annotated, Any, Final

import msgspec

__all__ = [
    "JSON_DEPTH_MAX",
    "NotJson",
    "compact_json",
    "dump_json",
    "dump_json_lines",
    "dump_plain_json",
    "is_model",
    "is_path",
    "load_json",
    "load_json_lines",
]

JSON_DEPTH_MAX: Final = 256
"""Deepest nesting of arrays and objects, as of elements in XML."""

_SHALLOW_BYTES: Final = 2 * JSON_DEPTH_MAX
"""What is shorter is not nested too deeply."""
_LEAVES: Final = (
    str, int, type(None), decimal.Decimal, uuid.UUID, bytes,
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta,
)  # fmt: skip
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))

_PLAIN_DEPTH: Final = 5
"""So deep is nested what `_is_plain` knows. Each level doubles what msgspec prepares at the first look, which
is 0.6 ms.
"""
_INT64_MAX: Final = (1 << 63) - 1
_FLOAT_MAX: Final = sys.float_info.max


def _plain_type(depth: int) -> Any:
    """The type of what JSON gives back as it was. The bounds are there for NaN and the infinities."""
    whole = Annotated[int, msgspec.Meta(ge=-_INT64_MAX, le=_INT64_MAX)]
    real = Annotated[float, msgspec.Meta(ge=-_FLOAT_MAX, le=_FLOAT_MAX)]
    leaf = str | bool | None | whole | real
    plain: Any = leaf
    for _ in range(depth):
        plain = leaf | list[plain] | dict[str, plain]
    return plain


class _Plain(msgspec.Struct, array_like=True, gc=False):
    """msgspec keeps what it knows of a type with its class."""

    value: _plain_type(_PLAIN_DEPTH)  # type: ignore[valid-type]


_convert: Final = msgspec.convert
_DECODER: Final = msgspec.json.Decoder()
decode: Final = _DECODER.decode
_decode_lines: Final = _DECODER.decode_lines


class NotJson(ValueError):
    """Why a value, or a text, is no JSON, and where in it."""


def dump_json(value: object) -> str:
    """A value as compact JSON, keys in their order. Raises NotJson, and whatever the value's own code raises.

    dict, list, tuple, str, int, float, bool, None; models of pydantic and msgspec, dataclasses, enums, and
    the types of standard libraries that msgspec writes as text: datetime, date, time, timedelta, Decimal,
    UUID, Path, bytes (base64).
    """
    kind = type(value)
    if kind is not dict and kind is not list and is_model(kind):
        value = _of_model(value)
    try:
        data = _encode(value)
    except RecursionError:
        raise NotJson("a value that holds itself, or is nested too deeply") from None
    except UnicodeEncodeError:
        raise NotJson(f"{_path_of_surrogate(value)}a lone surrogate cannot be written") from None
    except TypeError:
        _check(value, "")
        raise
    if len(data) >= _SHALLOW_BYTES:
        _check_depth(data)
    if not ((kind is dict or kind is list) and _is_plain(value)) and decode(data) != value:
        _check(value, "")
    return data.decode()


def dump_plain_json(value: object) -> bytes | None:
    """The same in UTF-8 of a dict or list that holds nothing unusual, None for any other: 0.15 µs less.
    Raises what the value's own code raises, and any Exception for what is not JSON.
    """
    data = _encode(value)
    if len(data) >= _SHALLOW_BYTES:
        _check_depth(data)
    return data if _is_plain(value) else None


def dump_json_lines(values: list[Any]) -> list[bytes]:
    """The same in UTF-8 of many values, each of which is a dict or list: 0.5 µs a value less. Raises any
    Exception, for a caller who then finds out which of them it was.
    """
    lines = _encode_lines(values).split(b"\n")
    lines.pop()
    if not _is_plain(values):
        return [dump_json(value).encode() for value in values]
    if max(map(len, lines)) >= _SHALLOW_BYTES:
        for line in lines:
            _check_depth(line)
    return lines


def _is_plain(value: object) -> bool:
    """Whether JSON gives a value back as it is, found in C. False also for some that it does give back: what
    is nested deeper than _PLAIN_DEPTH, tuples, datetimes and all else that is written as something else.

    Of 300 bytes 0.6 µs (0.4 in a list of many), where reading back what was written takes 0.7, and `_check`
    1.8. A set becomes a list here, which is not equal to it.
    """
    try:
        return bool(_convert((value,), _Plain).value == value)
    except (msgspec.ValidationError, RecursionError):
        return False


def load_json(data: bytes) -> Any:
    """The plain value of JSON in UTF-8. Raises NotJson."""
    try:
        return decode(data)
    except (ValueError, RecursionError) as error:  # both of msgspec's are ValueErrors
        raise NotJson(f"not JSON: {_why(error, data)}") from None


def load_json_lines(texts: list[str]) -> list[Any]:
    """The plain values of JSON that is compact, as that in the journal is: it has no line ends. 0.1 µs a
    value instead of 0.7. Raises NotJson.
    """
    try:
        return _decode_lines("\n".join(texts))
    except (ValueError, RecursionError) as error:
        raise NotJson(f"not JSON: {error}") from None


def compact_json(text: str) -> str:
    """JSON that is written already, without the spaces between its tokens. Raises NotJson for all else."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise NotJson("not JSON: a lone surrogate") from None
    load_json(data)
    _check_depth(data)
    return msgspec.json.format(data, indent=-1).decode()


def is_model(kind: type) -> bool:
    """Whether it is a model of pydantic's, which is not imported to know that: who has one has done it."""
    pydantic: Any = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def is_path(kind: type) -> bool:
    """Whether it is one of pathlib's, which workers boot without: 3 ms."""
    pathlib: Any = sys.modules.get("pathlib")
    return pathlib is not None and issubclass(kind, pathlib.PurePath)


def _of_model(value: Any) -> object:
    """By alias: that is how the model reads it again. NaN stays NaN here, and is refused later; pydantic's
    own JSON would hold null.
    """
    return value.model_dump(mode="json", by_alias=True)


def _unusual(value: Any) -> object:
    """For msgspec: what it does not write by itself. Subclasses of plain types count as these."""
    if is_model(type(value)):
        return _of_model(value)
    if is_path(type(value)):
        return str(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_unusual)
_encode: Final = _ENCODER.encode
_encode_lines: Final = _ENCODER.encode_lines


def _check(value: Any, path: str) -> None:
    """Raise NotJson, with where it is, for what JSON cannot hold. msgspec has written it, so it ends."""
    if is_model(type(value)):
        value = _of_model(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise NotJson(f"{_at(path)}{value} is not JSON")
    if isinstance(value, enum.Enum):
        _check(value.value, path)
    elif isinstance(value, (*_LEAVES, float)) or is_path(type(value)):
        return
    elif isinstance(value, dict):
        for key, member in value.items():
            if not isinstance(key, str):
                raise NotJson(f"{_at(path)}the key {key!r:.100} is no str")
            _check(member, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for position, member in enumerate(value):
            _check(member, f"{path}[{position}]")
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            _check(getattr(value, name), f"{path}.{name}")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            _check(getattr(value, field.name), f"{path}.{field.name}")
    else:
        raise NotJson(f"{_at(path)}{type(value).__name__} is not JSON")


def _at(path: str) -> str:
    return f"at {path.removeprefix('.')}: " if path else ""


def _path_of_surrogate(value: object) -> str:
    """Where a text is that cannot be encoded, when that is in plain containers."""
    stack = [(value, "")]
    while stack:
        one, path = stack.pop()
        if isinstance(one, str) and not one.isascii():
            try:
                one.encode()
            except UnicodeEncodeError:
                return _at(path)
        elif isinstance(one, dict):
            stack += [(member, f"{path}.{key}") for key, member in one.items()]
        elif isinstance(one, (list, tuple)):
            stack += [(member, f"{path}[{position}]") for position, member in enumerate(one)]
    return ""


def _check_depth(data: bytes) -> None:
    if data.count(b"[") + data.count(b"{") <= JSON_DEPTH_MAX:
        return
    depth = deepest = 0
    for bracket in _STRING.sub(b"", data).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    if deepest > JSON_DEPTH_MAX:
        raise NotJson(f"JSON nested deeper than {JSON_DEPTH_MAX}")


def _why(error: BaseException, data: bytes) -> str:
    if isinstance(error, RecursionError):
        return f"nested deeper than {JSON_DEPTH_MAX}"
    return f"{error}" + (f" ({data[:40].decode(errors='replace')!r})" if len(data) <= 40 else "")
