"""Recorded items through today's code, in a scratch journal, and how its answers differ from the recorded."""

import difflib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from durable_bus.app.finding import parse_spec
from durable_bus.client.buffer import BufferStatus
from durable_bus.client.embedded import open_client
from durable_bus.errors import UsageError
from durable_bus.journal.reader import JournalReader
from durable_bus.payloads.json_values import load_json
from durable_bus.payloads.messages import Json, Pickled, Result, Text, Xml
from durable_bus.payloads.xml_reading import canonical

__all__ = ["Comparison", "Difference", "rerun"]

_DIFFERENCE_LINES_MAX = 40
_DIFFERENCE_CHARS_MAX = 200


class Difference(NamedTuple):
    """An item that is answered otherwise today."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    item: str
    lines: list[str]
    """`- ` what is recorded, `+ ` what came now."""


class Comparison(NamedTuple):
    """How many recorded results were compared, and the indexes of those that differ."""

    compared: int
    differ: list[int]


def rerun(
    journal: Path,
    buffer_id: str,
    app: str,
    workers: int | None,
    tell: Callable[[Difference], None],
    watch: Callable[[BufferStatus], None],
) -> Comparison:
    """Run a buffer's items through today's code, into a journal that is thrown away, and compare the answers.

    XML is compared in its canonical form and JSON as its value: quoting and the order of attributes or keys
    do not matter. Items that have no recorded result are run and not compared. `tell` hears of each
    difference, `watch` of how far it is. Raises NotFound, or BufferError when the app lacks the listener.
    """
    spec = parse_spec(app)
    with JournalReader(journal) as reader:
        content = reader.kept(buffer_id)
        if not content.opened:
            raise UsageError(f"the items of {buffer_id} are still arriving")
        with tempfile.TemporaryDirectory(prefix="durable_bus_rerun_") as folder:
            scratch = Path(folder) / "rerun.db"
            with open_client(spec, app, scratch, workers, durability="normal", uses_memos=False) as client:
                again = client.start(content.target, reader.items(content.buffer_seq), buffer_id=buffer_id)

                def has_ended() -> bool:
                    status = again.status()
                    watch(status)
                    return status.state != "open"

                client.wait_until(has_ended, buffer_id, None)
                items = reader.items(content.buffer_seq)
                return _compare(reader.results(content.buffer_seq), again.results(), items, tell)


def _compare(
    recorded: Iterator[Result],
    today: Iterator[Result],
    items: Iterator[Text | Xml | Json | Pickled],
    tell: Callable[[Difference], None],
) -> Comparison:
    compared, differ = 0, []
    before = next(recorded, None)
    for now, item in zip(today, items, strict=True):
        if before is None:
            break
        if before.index != now.index:
            continue  # it has no recorded result
        compared += 1
        if _as_compared(before) != _as_compared(now):
            differ.append(now.index)
            tell(Difference(now.index, _text_of(item), _lines(before, now)))
        before = next(recorded, None)
    return Comparison(compared, differ)


def _text_of(item: Text | Xml | Json | Pickled) -> str:
    return str(item.value.text) if isinstance(item, Json) else item.text  # type: ignore[attr-defined]


def _as_compared(result: Result) -> tuple[bool, str, object]:
    """What two answers must have in common: of XML its canonical form, of JSON its value,
    whatever the order of its keys.
    """
    payload: object = result.payload
    if result.form == "xml":
        payload = canonical(result.payload)
    elif result.form == "json":
        # Not the value itself: for Python 1 is true, and 1.0 is 1.
        payload = msgspec.json.encode(load_json(result.payload.encode()), order="sorted")
    return result.success, result.form, payload


def _lines(before: Result, now: Result) -> list[str]:
    lines = list(difflib.ndiff(_readable(before), _readable(now)))
    lines = [line[:_DIFFERENCE_CHARS_MAX] for line in lines if not line.startswith("? ")]
    if len(lines) > _DIFFERENCE_LINES_MAX:
        lines = [line for line in lines if not line.startswith("  ")]  # of a big object what differs
    if len(lines) > _DIFFERENCE_LINES_MAX:
        lines = [*lines[:_DIFFERENCE_LINES_MAX], f"  … and {len(lines) - _DIFFERENCE_LINES_MAX} lines more"]
    return lines


def _readable(result: Result) -> list[str]:
    """An element or a JSON field a line, after a line that says what kind of answer it is."""
    kind = ("succeeded" if result.success else "failed") + (
        "" if result.form == "xml" else f", {result.form}"
    )
    if result.form == "xml":
        return [kind, *canonical(result.payload).replace("><", ">\n<").splitlines()]
    if result.form == "json":
        return [kind, *_fields(load_json(result.payload.encode()), "")]
    return [kind, *result.payload.splitlines()]


def _fields(value: object, path: str) -> Iterator[str]:
    """JSON as a line a field, each with its path, in the order of the names: so that a difference shows the
    field that differs, and the order of keys is none.
    """
    if isinstance(value, dict) and value:
        for key in sorted(value):
            yield from _fields(value[key], f"{path}.{key}")
    elif isinstance(value, list) and value:
        for position, member in enumerate(value):
            yield from _fields(member, f"{path}[{position}]")
    else:
        text = msgspec.json.encode(value).decode()
        yield f"{path.removeprefix('.')}: {text}" if path else text
