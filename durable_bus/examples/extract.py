"""Facts out of documents: each line of a JSON file is one pydantic model, and each answer another.

It needs pydantic, which durable_bus does not: `pip install pydantic`.

`docs.jsonl` has a document a line, such as

    {"name": "invoice 7", "text": "Invoice for paper\\nZurich, 2026-01-31. Total: CHF 1,204.50"}

Run it, and have a table with a column a field:

    durable-bus run durable_bus.examples.extract:bus extract --items docs.jsonl --format jsonl
    durable-bus run durable_bus.examples.extract:bus extract --items docs.jsonl \\
        --format parquet -o facts.parquet

What is no Document, such as one without a text, is a failed item that says which field, and the others go on.
From Python, with documents from wherever you have them:

    with bus.running("facts.db") as client:
        buffer = client.start("extract", documents, buffer_id="january")
        buffer.wait()
        frame = buffer.to_pandas()
"""

import datetime
import re
import sys
from collections.abc import Iterable
from decimal import Decimal

from pydantic import BaseModel

from durable_bus import Bus

bus = Bus("extract")

_DATE = re.compile(r"\b(\d{4})-(\d\d)-(\d\d)\b")
_AMOUNT = re.compile(r"\b(CHF|EUR|USD) ?(\d[\d,]*(?:\.\d\d)?)\b")


class Document(BaseModel):
    name: str
    text: str


class Amount(BaseModel):
    currency: str
    value: Decimal


class Facts(BaseModel):
    name: str
    title: str
    date: datetime.date | None
    amounts: list[Amount]


@bus.listener("extract")
def extract(document: Document) -> Facts:
    """The first line as the title, the first date, and every amount."""
    found = _DATE.search(document.text)
    amounts = [
        Amount(currency=currency, value=Decimal(digits.replace(",", "")))
        for currency, digits in _AMOUNT.findall(document.text)
    ]
    return Facts(
        name=document.name,
        title=document.text.strip().partition("\n")[0],
        date=datetime.date(*map(int, found.groups())) if found else None,
        amounts=amounts,
    )


def facts_of(documents: Iterable[Document], journal: str = "facts.db") -> list[Facts]:
    """The facts of each document, in order. Raises ItemFailed for the first that has failed."""
    with bus.running(journal) as client:
        buffer = client.start("extract", documents)
        buffer.wait()
        return [Facts.model_validate(result.value) for result in buffer.results()]


if __name__ == "__main__":
    for facts in facts_of(Document.model_validate_json(line) for line in sys.stdin):
        print(facts.model_dump_json())
