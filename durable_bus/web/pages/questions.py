"""The named questions, and anybody's SQL. Both only read, and both are of now."""

import itertools
import re
from typing import Any

from starlette.responses import Response

from durable_bus.errors import DurableBusError, JournalError
from durable_bus.journal.admin.query import ask, column_names, question, questions
from durable_bus.web.pages.look import Look
from durable_bus.web.shown import one_line

_ROWS_MAX = 200
_CELL_CHARS = 300
_TIME_LIMIT_S = 10.0
_PARAMETER = re.compile(r"(?<!:):([a-z]\w*)")


def questions_page(look: Look) -> Response:
    name, sql = look.query("name"), look.request.query_params.get("sql", "").strip()[:20_000]
    given = {
        key[2:]: value for key, value in look.request.query_params.items() if key.startswith("p.") and value
    }
    shown: dict[str, Any] = {"columns": [], "rows": None, "more": False, "error": None, "parameters": {}}
    try:
        if name is not None:
            sql, parameters = question(name, given)
            shown["parameters"] = parameters
            shown |= _answer(look, sql, parameters)
        elif sql:
            wanted = dict.fromkeys(_PARAMETER.findall(sql))
            shown["parameters"] = {**wanted, **{key: value for key, value in given.items() if key in wanted}}
            shown |= _answer(look, sql, shown["parameters"])
    except JournalError:
        raise
    except DurableBusError as error:
        shown["error"] = str(error).replace("; --timeout allows more", "")
    return look.render(
        "questions.html", questions=questions(), name=name, sql=sql, rows_max=_ROWS_MAX, **shown
    )


def _answer(look: Look, sql: str, parameters: dict[str, Any]) -> dict[str, Any]:
    found = ask(look.reader.path, sql, parameters, time_limit_s=_TIME_LIMIT_S, newer=True)
    try:
        rows = [*itertools.islice(found, _ROWS_MAX + 1)]
    finally:
        found.close()  # type: ignore[attr-defined]  # it is a generator, and holds a connection
    columns = (
        [*rows[0]]
        if rows
        else column_names(look.reader.path, sql, parameters, time_limit_s=_TIME_LIMIT_S, newer=True)
    )
    cells = [[_cell(value) for value in row.values()] for row in rows[:_ROWS_MAX]]
    return {"columns": columns, "rows": cells, "more": len(rows) > _ROWS_MAX}


def _cell(value: Any) -> tuple[str, bool]:
    """As text, and whether it is a number. What a browser would round stays as it is: it is text."""
    if value is None:
        return "", False
    if isinstance(value, bytes):
        return value[: _CELL_CHARS // 2].hex(), False
    if isinstance(value, int | float):
        return str(value), True
    return one_line(value, _CELL_CHARS), False
