"""How a bus that says nothing about forms writes and reads values."""

from typing import Any

from durable_bus.payloads.reading import PayloadType
from durable_bus.payloads.settings import ValueForms
from durable_bus.payloads.values import ValueWriter

__all__ = ["dump", "dump_item", "dump_message", "load", "outcome_of"]

_WRITER = ValueWriter(ValueForms)

dump = _WRITER.answer
dump_item = _WRITER.item
dump_message = _WRITER.message
outcome_of = _WRITER.outcome


def load(text: str, form: int, annotation: Any) -> Any:
    return PayloadType(annotation).load(text, form)
