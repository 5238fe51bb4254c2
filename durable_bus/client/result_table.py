"""Results as a table of Apache Arrow: a column a field where answers are JSON objects. Needs the extra
`arrow`.

A table's columns must be known before its first row is written, and the fields of the last answer may be
others than those of the first. So results are read once, into batches with the same columns for everybody,
in memory or in a temporary file; on the way it is seen which fields there are, and of which types. Then the
batches are gone through again, and answers are taken apart. The journal, to which results may come meanwhile,
is not asked twice.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec

from durable_bus.errors import UsageError, said
from durable_bus.payloads.messages import Result

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["FIELDS_MAX", "ResultTable", "frame_of", "import_arrow", "import_extra"]

FIELDS_MAX: Final = 1_000
"""Of all answers together. Who has more has names that are data, and no columns: answers are left as they
are then, in `payload`. So much may be in one field, too, else it is JSON text.
"""

_BATCH_CHARS: Final = 1024 * 1024
_BATCH_ROWS_MAX: Final = 8_192
_BEFORE: Final = ("index", "success")
_BEHIND: Final = ("payload", "form", "error", "attempt", "duration_ms")
"""Columns that every table has, before and behind the fields of the answers."""


def import_extra(name: str, extra: str, what: str) -> Any:
    """A module that is no dependency of the package. Raises UsageError, which says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        why = f"{what} needs {name}: install durable-bus[{extra}]"
        raise UsageError(
            why if isinstance(error, ModuleNotFoundError) else f"{why} ({said(error)})"
        ) from None


def import_arrow(what: str) -> Any:
    """pyarrow. Raises UsageError."""
    return import_extra("pyarrow", "arrow", what)


def frame_of(table: pa.Table, pandas: Any) -> pd.DataFrame:
    """A table as a data frame. Whole numbers with a null among them would become float64, and those above
    2**53 others: they become Int64, booleans boolean.
    """
    pa: Any = import_arrow("a data frame of results")
    nullable = {pa.int64(): pandas.Int64Dtype(), pa.bool_(): pandas.BooleanDtype()}
    frame = table.to_pandas()
    for position, (field, column) in enumerate(zip(table.schema, table.columns, strict=True)):
        if column.null_count and field.type in nullable:
            frame.isetitem(position, nullable[field.type].__from_arrow__(column))
    return frame


class ResultTable:
    """Results as record batches. The columns: index, success; the fields of all answers that are JSON
    objects, in the order in which they are first seen; payload (null where the fields hold it), form, error,
    attempt, duration_ms; and item, its text.

    A field has the type that Arrow infers, and null where an answer lacks it. Whole numbers and others are
    double; where types differ otherwise, or Arrow or Parquet have none, the field is JSON text. A field that
    has the name of another column gets `payload.` before it.
    """

    def __init__(
        self, results: Iterable[Result], *, with_items: bool = False, spool: BinaryIO | None = None
    ) -> None:
        """Reads all results, whose items are pairs as the journal's reader gives them. `spool`: a temporary
        file for them, so that memory stays flat. Raises UsageError when pyarrow is missing.
        """
        self._pa: Any = import_arrow("a table of results")
        self._spool = spool
        self._gathered: list[pa.RecordBatch] = []
        self._behind = [*_BEHIND, "item"] if with_items else [*_BEHIND]
        self._fields = _Fields(self._pa, {*_BEFORE, *self._behind})
        self._take(results, with_items)
        if self._fields.widened:
            for batch in self._batches():
                self._fields.check(_objects(batch))
        self.schema: pa.Schema = self._schema()

    def _take(self, results: Iterable[Result], with_items: bool) -> None:
        pa = self._pa
        types = {
            "index": pa.int64(), "success": pa.bool_(), "attempt": pa.int64(), "duration_ms": pa.float64(),
        }  # fmt: skip
        self._base = pa.schema([(name, types.get(name, pa.string())) for name in [*_BEFORE, *self._behind]])
        writer = pa.ipc.new_stream(self._spool, self._base) if self._spool is not None else None
        for page in _pages(results):
            columns: list[list[Any]] = [
                [getattr(result, name) for result in page] for name in self._base.names if name != "item"
            ]
            if with_items:
                columns.append([result.item and result.item[0] for result in page])
            arrays = map(pa.array, columns, self._base.types)
            batch = pa.RecordBatch.from_arrays(list(arrays), schema=self._base)
            self._fields.see(_objects(batch))
            if writer is None:
                self._gathered.append(batch)
            else:
                writer.write_batch(batch)
        if writer is not None:
            writer.close()

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """What was taken, with the columns that everybody has."""
        if self._spool is None:
            return iter(self._gathered)
        self._spool.seek(0)
        return iter(self._pa.ipc.open_stream(self._spool))

    def _schema(self) -> pa.Schema:
        fields = [(name, self._base.field(name).type) for name in _BEFORE]
        fields += [(name, kind or self._pa.string()) for _, name, kind in self._fields.columns()]
        fields += [(name, self._base.field(name).type) for name in self._behind]
        return self._pa.schema(fields)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The results in item order, each time from the first on."""
        columns = self._fields.columns()
        for batch in self._batches():
            objects = _objects(batch)
            arrays = {name: batch.column(name) for name in self._base.names}
            if columns:
                kept = [
                    text if found is None else None
                    for text, found in zip(batch.column("payload").to_pylist(), objects, strict=True)
                ]
                arrays["payload"] = self._pa.array(kept, self._pa.string())
            fields = [self._fields.array(objects, field, kind) for field, _, kind in columns]
            yield self._pa.RecordBatch.from_arrays(
                [*map(arrays.get, _BEFORE), *fields, *map(arrays.get, self._behind)], schema=self.schema
            )


class _Fields:
    """Which fields the objects among the answers have, and of which types."""

    def __init__(self, pa: Any, taken: set[str]) -> None:
        self._pa = pa
        self._taken = taken
        self._types: dict[str, Any] = {}
        """By field, in the order in which they were first seen; None: JSON text."""
        self._too_many = False
        self.widened = False
        """Whole numbers are to be doubles; whether each of them can, `check` has not looked yet."""

    def see(self, objects: list[dict[str, Any] | None]) -> None:
        if self._too_many:
            return
        values: dict[str, list[Any]] = {}
        for one in objects:
            for name, value in (one or {}).items():
                values.setdefault(name, []).append(value)
        for name, column in values.items():
            self._types[name] = self._merged(self._types.get(name, self._pa.null()), self._inferred(column))
        if len(self._types) > FIELDS_MAX:
            self._types, self._too_many = {}, True

    def columns(self) -> list[tuple[str, str, Any]]:
        """Field, name of its column, type or None."""
        taken = {*self._taken, *self._types}
        columns = []
        for field, kind in self._types.items():
            name = field
            while name in self._taken or (name != field and name in taken):
                name = f"payload.{name}"
            taken.add(name)
            columns.append((field, name, None if kind is None or _leaves(kind, self._pa)[1] else kind))
        return columns

    def check(self, objects: list[dict[str, Any] | None]) -> None:
        """Have JSON text where a value does not fit the type of all."""
        for field, _, kind in self.columns():
            if kind is not None:
                try:
                    self.array(objects, field, kind)
                except (ValueError, OverflowError, TypeError):  # Arrow's are ValueErrors
                    self._types[field] = None

    def array(self, objects: list[dict[str, Any] | None], field: str, kind: Any) -> pa.Array:
        values = [None if one is None else one.get(field) for one in objects]
        if kind is not None:
            return self._pa.array(values, kind)
        texts = [None if value is None else msgspec.json.encode(value).decode() for value in values]
        return self._pa.array(texts, self._pa.string())

    def _inferred(self, values: list[Any]) -> Any:
        try:
            return self._not_too_wide(self._pa.array(values).type)
        except (ValueError, OverflowError, TypeError):
            return None

    def _merged(self, one: Any, other: Any) -> Any:
        if one is None or other is None or one.equals(other):
            return None if other is None else one
        self.widened = True
        schemas = [self._pa.schema([("field", kind)]) for kind in (one, other)]
        try:
            both = self._pa.unify_schemas(schemas, promote_options="permissive")
        except (ValueError, TypeError):
            return None
        return self._not_too_wide(both.field(0).type)

    def _not_too_wide(self, kind: Any) -> Any:
        return kind if _leaves(kind, self._pa)[0] <= FIELDS_MAX else None


def _pages(results: Iterable[Result]) -> Iterator[list[Result]]:
    page: list[Result] = []
    chars = 0
    for result in results:
        page.append(result)
        chars += len(result.payload) + (len(result.item[0]) if result.item else 0)
        if chars > _BATCH_CHARS or len(page) == _BATCH_ROWS_MAX:
            yield page
            page, chars = [], 0
    if page:
        yield page


def _objects(batch: pa.RecordBatch) -> list[dict[str, Any] | None]:
    """The answers that are JSON objects."""
    decode = msgspec.json.decode
    payloads, forms = batch.column("payload").to_pylist(), batch.column("form").to_pylist()
    return [
        decode(payload) if form == "json" and payload[:1] == "{" else None
        for payload, form in zip(payloads, forms, strict=True)
    ]


def _leaves(kind: Any, pa: Any) -> tuple[int, int]:
    """How many columns Parquet makes of a type, and how many of them are objects without fields, which it has
    not.
    """
    leaves = empty = 0
    stack = [kind]
    while stack:
        one = stack.pop()
        members = [one.field(number).type for number in range(one.num_fields)]
        stack += members
        leaves += not members
        empty += not members and pa.types.is_struct(one)
    return leaves, empty
