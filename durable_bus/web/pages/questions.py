"""The named questions, and anybody's SQL. Both only read, and both are of now."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from starlette.responses import Response

from durable_bus.errors import DurableBusError, UsageError
from durable_bus.journal.admin.query import first_rows, question, questions
from durable_bus.web.pages.look import Look
from durable_bus.web.shown import one_line

_ROWS_MAX = 200
_CELL_CHARS = 300
_TIME_LIMIT_S = 10.0
_SQL_CHARS_MAX = 20_000
_PARAMETER = re.compile(r"(?<!:):([a-z]\w*)")


def questions_page(look: Look) -> Response:
    """Its head is sent before the question is asked, because an answer may take seconds."""
    name, sql = look.query("name"), look.request.query_params.get("sql", "").strip()[:_SQL_CHARS_MAX]
    given = {
        key.removeprefix("p."): value
        for key, value in look.request.query_params.items()
        if key.startswith("p.") and value
    }
    parameters: dict[str, Any] = {}
    error = None
    if name is not None:
        try:
            sql, parameters = question(name, given)
        except UsageError as refused:
            error = str(refused)
    elif sql:
        wanted = dict.fromkeys(_PARAMETER.findall(sql))
        parameters = {**wanted, **{key: value for key, value in given.items() if key in wanted}}
    asks = bool(sql) and error is None
    journal = look.reader.path
    return look.stream(
        "questions.html",
        asks=asks,
        questions=questions(),
        name=name,
        sql=sql,
        parameters=parameters,
        rows_max=_ROWS_MAX,
        answer=lambda: _answer(journal, sql, parameters) if asks else _Answered(error=error),
    )


class _Answered(NamedTuple):
    columns: tuple[str, ...] = ()
    rows: list[list[tuple[str, bool]]] | None = None
    """Each cell as text, and whether it is a number; None: nothing was asked."""
    more: bool = False
    error: str | None = None


def _answer(journal: Path, sql: str, parameters: dict[str, Any]) -> _Answered:
    bounds: dict[str, Any] = {"rows_max": _ROWS_MAX + 1, "time_limit_s": _TIME_LIMIT_S}
    try:
        columns, rows = first_rows(journal, sql, parameters, **bounds, shown=_cell)
    except DurableBusError as error:
        return _Answered(error=str(error).replace("; --timeout allows more", ""))
    return _Answered(tuple(columns), rows[:_ROWS_MAX], len(rows) > _ROWS_MAX)


def _cell(value: Any) -> tuple[str, bool]:
    """As text, and whether it is a number. What a browser would round stays as it is: it is text."""
    if value is None:
        return "", False
    if isinstance(value, bytes):
        return value[: _CELL_CHARS // 2].hex(), False
    if isinstance(value, int | float):
        return str(value), True
    return one_line(value, _CELL_CHARS), False
