"""What a handler gets of a payload: its annotation says how it arrives, whatever form it has.

`README.md` has the table. What does not fit is MalformedItem, which says which field it is about and what was
expected; an annotation that nobody can serve is UsageError, at import.
"""

from __future__ import annotations

import base64
import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any, Final

import msgspec
from lxml import etree
from msgspec import inspect

from durable_bus.errors import MalformedItem, UsageError, said
from durable_bus.payloads.dataclass_xml import Codec, codec_of
from durable_bus.payloads.forms import JSON, PICKLE, TEXT, XML
from durable_bus.payloads.json_values import NotJson, dump_json, is_model, is_path, load_json
from durable_bus.payloads.xml_reading import item_element, parse, parse_bytes, without_declaration

__all__ = ["AS_IT_IS", "PayloadType", "json_value", "plain_value"]

Load = Callable[[bytes], Any]

AS_IT_IS: Final = Any
"""The annotation of who takes every form: text as str, JSON as its value, XML as an element."""

_CONTAINERS: Final = (
    inspect.ListType, inspect.SetType, inspect.FrozenSetType, inspect.VarTupleType, inspect.TupleType,
    inspect.DictType, inspect.TypedDictType, inspect.NamedTupleType, inspect.DataclassType,
    inspect.StructType,
)  # fmt: skip
"""Text for one of these is parsed as JSON; text for all else is a scalar."""
_ERRORS_SHOWN: Final = 3
_NAME_CHARS_MAX: Final = 100


def _loads_pickle(data: bytes) -> Any:
    import pickle

    try:
        return pickle.loads(base64.b64decode(data, validate=True))
    except BaseException as error:  # a pickle runs code, which may even exit
        raise MalformedItem(f"the pickle cannot be loaded: {type(error).__name__}: {said(error)}") from None


def _json(data: bytes) -> Any:
    try:
        return load_json(data)
    except NotJson as error:
        raise MalformedItem(str(error)) from None


def plain_value(text: str, form: int) -> Any:
    """A payload as it is: str, element, plain JSON value, or the object of a pickle. Raises MalformedItem.

    A pickle is code: only who trusts the journal asks for one.
    """
    return _AS_IT_IS[form](text.encode())


def json_value(value: Any) -> Any:
    """What `plain_value` has given, as plain JSON: an element as its text, the object of a pickle as its
    repr.
    """
    if isinstance(value, etree._Element):
        return etree.tostring(value, encoding="unicode", with_tail=False)
    try:
        return load_json(dump_json(value).encode())
    except (NotJson, TypeError, ValueError):
        return repr(value)


_AS_IT_IS: Final[dict[int, Load]] = {
    TEXT: bytes.decode,
    XML: parse_bytes,
    JSON: _json,
    PICKLE: _loads_pickle,
}


class PayloadType:
    """What a handler's annotation takes. `loads[form]` makes the value of a payload of that form in UTF-8, or
    raises MalformedItem.
    """

    def __init__(self, annotation: Any, *, pickles: bool = False) -> None:
        """`pickles`: whether the bus pickles: then a pickle is loaded, and any class may be annotated.

        Raises UsageError for what nobody can serve, NameError for a forward reference that is not there yet.
        """
        self.annotation = annotation
        name = _name_of(annotation)
        text, xml, json = _loads_of(annotation, name, pickles)
        self.loads: Final[tuple[Load, ...]] = (text, xml, json, _pickle_loader(annotation, name, pickles))

    def load(self, text: str, form: int) -> Any:
        """The value of one payload. Raises MalformedItem."""
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise MalformedItem(f"a lone surrogate at position {error.start}") from None
        return self.loads[form](data)


def _loads_of(annotation: Any, name: str, pickles: bool) -> tuple[Load, Load, Load]:
    """Of text, XML and JSON."""
    if annotation is AS_IT_IS or annotation is object:
        return _AS_IT_IS[TEXT], _AS_IT_IS[XML], _AS_IT_IS[JSON]
    if annotation is str:
        return bytes.decode, _xml_as_text, _json_as_text
    if annotation is etree._Element:
        return lambda data: item_element(data.decode()), parse_bytes, _refusing(JSON, "an element")
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return _loads_of_dataclass(annotation, name)
    if isinstance(annotation, type) and is_model(annotation):
        load = _model_loader(annotation, name)
        return load, _refusing(XML, name), load
    one = _only_member(annotation)
    if isinstance(one, type) and dataclasses.is_dataclass(one):
        text, xml, _ = _loads_of_dataclass(one, name)
        return text, xml, _typed_loader(annotation, name)
    annotation = _with_any(annotation)
    try:
        info = _checked_info(annotation)
    except UsageError:
        if pickles and isinstance(annotation, type):
            return _refusing(TEXT, name), _refusing(XML, name), _refusing(JSON, name)
        raise
    json = _typed_loader(annotation, name)
    return _text_loader(annotation, info, name, json), _refusing(XML, name), json


def _with_any(annotation: Any) -> Any:
    """`dict[str, object]` is what strict type-checkers want in place of Any; msgspec would ask our hook for
    each such value, 0.1 us.
    """
    if isinstance(annotation, types.GenericAlias):
        origin: Any = annotation.__origin__
        return types.GenericAlias(origin, tuple(map(_with_any, annotation.__args__)))
    return Any if annotation is object else annotation


def _only_member(annotation: Any) -> Any:
    """The class of `Class | None`; None for any other annotation."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return None
    members = [member for member in typing.get_args(annotation) if member is not type(None)]
    return members[0] if len(members) == 1 else None


def _loads_of_dataclass(annotation: type, name: str) -> tuple[Load, Load, Load]:
    """XML by the origin's convention, JSON by msgspec; many classes can only be read from one of them."""
    codec: Codec | None = None
    refused: UsageError | None = None
    try:
        codec = codec_of(annotation)
    except UsageError as error:
        refused = error
    try:
        _checked_info(annotation)
    except UsageError:
        if codec is None:
            assert refused is not None
            raise refused from None
        return _text_of_dataclass(codec), _xml_of_dataclass(codec), _refusing(JSON, name)
    json = _typed_loader(annotation, name)
    if codec is None:
        return json, _refusing(XML, name), json
    has_text_field = codec.text_field is not None
    return _text_of_dataclass(codec) if has_text_field else json, _xml_of_dataclass(codec), json


def _text_of_dataclass(codec: Codec) -> Load:
    return lambda data: codec.load_text(data.decode())


def _xml_of_dataclass(codec: Codec) -> Load:
    return lambda data: codec.load(parse_bytes(data))


def _xml_as_text(data: bytes) -> str:
    """It must parse, or whether it is malformed would depend on who looks."""
    text = data.decode()
    parse(text)
    return without_declaration(text)


def _json_as_text(data: bytes) -> str:
    """A JSON string is the string itself; all else is its JSON text."""
    if data[:1] != b'"':
        return data.decode()
    return str(_json(data))


def _refusing(form: int, name: str) -> Load:
    def refuse(data: bytes) -> Any:
        raise MalformedItem(f"{_FORM_SAID[form]} came where {name} is expected")

    return refuse


_FORM_SAID: Final = ("text", "XML", "JSON", "a pickle")


def _pickle_loader(annotation: Any, name: str, pickles: bool) -> Load:
    if not pickles:
        return _refusing(PICKLE, f"{name}, on a bus that loads no pickles,")
    if not isinstance(annotation, type) or annotation in (object, Any):  # Any is a class, too
        return _loads_pickle

    def load(data: bytes) -> Any:
        value = _loads_pickle(data)
        if not isinstance(value, annotation):
            raise MalformedItem(f"a pickle of {type(value).__name__} came where {name} is expected")
        return value

    return load


def _typed_loader(annotation: Any, name: str) -> Load:
    """JSON by msgspec: exactly at first; then leniently, because the fields of a row of CSV are all texts.
    Leniently at once would make 42 of the text "42" in a field that takes both.
    """
    strict = msgspec.json.Decoder(annotation, dec_hook=_convert_unusual).decode
    lenient = msgspec.json.Decoder(annotation, dec_hook=_convert_unusual, strict=False).decode

    def load(data: bytes) -> Any:
        try:
            return strict(data)
        except msgspec.ValidationError:
            pass
        except Exception as error:
            raise _misfit(name, error) from None
        try:
            return lenient(data)
        except Exception as error:  # also of the class's own code
            raise _misfit(name, error) from None

    return load


def _text_loader(annotation: Any, info: inspect.Type, name: str, json: Load) -> Load:
    members = info.types if isinstance(info, inspect.UnionType) else (info,)
    if any(isinstance(member, inspect.StrType) for member in members):
        return bytes.decode
    if any(isinstance(member, _CONTAINERS) or _is_custom_model(member) for member in members):
        return json

    def load(data: bytes) -> Any:
        try:
            return msgspec.convert(data.decode().strip(), annotation, strict=False, dec_hook=_convert_unusual)
        except Exception as error:
            raise _misfit(name, error) from None

    return load


def _is_custom_model(info: inspect.Type) -> bool:
    return isinstance(info, inspect.CustomType) and is_model(info.cls)


def _model_loader(model: Any, name: str) -> Load:
    def load(data: bytes) -> Any:
        try:
            return model.model_validate_json(data)
        except Exception as error:
            raise _misfit(name, error) from None

    return load


def _convert_unusual(kind: type, value: Any) -> Any:
    """For msgspec: types that it does not read by itself. `_checked_info` has let no other through."""
    if kind is object:  # as strict type-checkers want `Any` to be written
        return value
    if is_path(kind):
        if not isinstance(value, str):
            raise ValueError(f"Expected a path as `str`, got `{type(value).__name__}`")
        return kind(value)
    try:
        return kind.model_validate_json(msgspec.json.encode(value))  # type: ignore[attr-defined]
    except Exception as error:
        raise ValueError(_said_by(error)) from None


def _misfit(name: str, error: Exception) -> MalformedItem:
    return MalformedItem(f"does not fit {name}: {_said_by(error)}")


def _said_by(error: Exception) -> str:
    """What a library says of a value: pydantic a paragraph for each field, of which one line each is kept."""
    details: Any = getattr(error, "errors", None)
    if not callable(details):
        return said(error)
    found = details()
    shown = [
        f"{'.'.join(map(str, one['loc']))}: {one['msg']}" if one["loc"] else one["msg"]
        for one in found[:_ERRORS_SHOWN]
    ]
    if len(found) > _ERRORS_SHOWN:
        shown.append(f"and {len(found) - _ERRORS_SHOWN} more")
    return "; ".join(shown)


def _checked_info(annotation: Any) -> inspect.Type:
    """What msgspec knows of an annotation. Raises UsageError for what it, or this module, cannot read."""
    try:
        info = inspect.type_info(annotation)
        msgspec.json.Decoder(annotation, dec_hook=_convert_unusual)
    except NameError:
        raise
    except Exception as error:
        raise UsageError(f"{_name_of(annotation)} is no type of a payload: {said(error)}") from None
    for custom in _customs_in(info, set()):
        if not (custom is object or is_path(custom) or is_model(custom)):
            raise UsageError(
                f"{_name_of(annotation)} is no type of a payload: nothing reads {custom.__qualname__}; take "
                "str, lxml.etree._Element, a dataclass, dict, list, int, float, bool, a TypedDict, a "
                "NamedTuple, a pydantic model, a msgspec Struct or Any"
            )
    return info


def _customs_in(info: Any, seen: set[int]) -> list[type]:
    """The classes in a type that msgspec leaves to others."""
    if id(info) in seen:
        return []
    seen.add(id(info))
    if isinstance(info, inspect.CustomType):
        return [info.cls]
    members: list[Any] = []
    if isinstance(info, (tuple, list)):
        members = list(info)
    elif isinstance(info, (inspect.Type, inspect.Field)):
        members = [getattr(info, name) for name in info.__struct_fields__]
    return [custom for member in members for custom in _customs_in(member, seen)]


def _name_of(annotation: Any) -> str:
    """As a person would write it."""
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    return str(annotation).replace("typing.", "")[:_NAME_CHARS_MAX]
