"""The results document: what `BufferComplete.results` holds and `--format xml` prints (DESIGN section 7).

Rendered from the rows each time, never stored, and never failing: every answer was checked where it was made.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator

from durable_bus.payloads.characters import escape, first_unrepresentable
from durable_bus.payloads.messages import Result

__all__ = ["result_item", "results_document"]


def result_item(index: int, success: bool, payload: str, form: str) -> str:
    """One `<item>` of the results document: XML inside as answered, all else escaped. JSON and pickles say so
    with `form`; text with characters that XML cannot hold is base64 of its UTF-8, and says so with
    `encoding`.
    """
    attributes = ""
    if form != "xml":
        if form != "text":
            attributes = f' form="{form}"'
        if not payload.isprintable() and first_unrepresentable(payload):
            attributes += ' encoding="base64"'
            payload = base64.b64encode(payload.encode(errors="surrogatepass")).decode()
        else:
            payload = escape(payload)
    return f'<item index="{index}" success="{"true" if success else "false"}"{attributes}>{payload}</item>'


def _missing_item(index: int) -> str:
    return f'<item index="{index}" success="false" missing="true"/>'


def results_document(results: Iterable[Result], total: int) -> Iterator[str]:
    """The results document in pieces of one item, streamed: joined they are `<results>…</results>`.

    `results` come in item order; an index below `total` that none of them has is rendered as missing.

    Raises ValueError when they are out of order or beyond `total`: then the reader is broken, not the data.
    """
    yield "<results>"
    next_index = 0
    for result in results:
        if not next_index <= result.index < total:
            raise ValueError(f"result {result.index} where {next_index} to {total - 1} may come")
        for index in range(next_index, result.index):
            yield _missing_item(index)
        yield result_item(result.index, result.success, result.payload, result.form)
        next_index = result.index + 1
    yield from map(_missing_item, range(next_index, total))
    yield "</results>"
