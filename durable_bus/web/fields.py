"""The fields of a form, as what they stand for."""

import time
from collections.abc import Mapping

import click

from durable_bus.cli.options import AGE
from durable_bus.errors import UsageError

__all__ = ["Fields"]


class Fields:
    """Each method raises UsageError, which names the field, for what it cannot stand for."""

    def __init__(self, form: Mapping[str, list[str]]) -> None:
        self._form = form

    def has(self, name: str) -> bool:
        """A box that is ticked. One that is not is not sent."""
        return name in self._form

    def one(self, name: str) -> str:
        """Without white space around it; "" when it is not there."""
        values = self._form.get(name, [])
        if len(values) > 1:
            raise UsageError(f"{name} is given {len(values)} times")
        return values[0].strip() if values else ""

    def text(self, name: str) -> str:
        """As it was typed: browsers send each end of a line as two characters. Raises also where there is
        none.
        """
        values = self._form.get(name, [])
        if len(values) != 1:
            raise UsageError(f"{name} is given {len(values)} times")
        return values[0].replace("\r\n", "\n")

    def number(self, name: str) -> int | None:
        """None: nothing was typed."""
        text = self.one(name)
        if not text:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) <= 15):
            raise UsageError(f"{name}: {text!r:.100} is no whole number")
        return int(text)

    def amounts(self, name: str) -> dict[str, float]:
        """Lines such as usd=5, of all fields of this name. What may be a unit or an amount, `client.terms`
        says.
        """
        amounts: dict[str, float] = {}
        for line in filter(
            None, (line.strip() for value in self._form.get(name, []) for line in value.split())
        ):
            unit, _, amount = line.partition("=")
            if unit in amounts:
                raise UsageError(f"{name}: {unit!r:.100} is given twice")
            try:
                amounts[unit] = float(amount)
            except ValueError:
                raise UsageError(f"{name}: {line!r:.100} is no UNIT=AMOUNT such as usd=5") from None
        return amounts

    def before_ms(self, name: str) -> int:
        """An age such as 30d, as the time since when it is so old, in milliseconds since the epoch."""
        try:
            age_ms = AGE.convert(self.one(name), None, None)
        except click.BadParameter as error:
            raise UsageError(f"{name}: {error.message}") from None
        return time.time_ns() // 1_000_000 - int(age_ms)
