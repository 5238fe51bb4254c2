"""The extraction example, from the command line over a file, and from Python."""

import datetime
import json
from decimal import Decimal
from pathlib import Path

import pytest
from command_line import durable_bus

pytest.importorskip("pydantic", reason="there is no pydantic for this Python")

from durable_bus.examples.extract import Document, Facts, extract, facts_of

DOCUMENTS = [
    {"name": "a", "text": "Invoice for paper\nZurich, 2026-01-31. Total: CHF 1,204.50, of it EUR 7"},
    {"name": "b", "text": "A letter"},
]
FACTS = [
    {
        "name": "a",
        "title": "Invoice for paper",
        "date": "2026-01-31",
        "amounts": [{"currency": "CHF", "value": "1204.50"}, {"currency": "EUR", "value": "7"}],
    },
    {"name": "b", "title": "A letter", "date": None, "amounts": []},
]
RUN = ("run", "durable_bus.examples.extract:bus", "extract", "--items", "docs.jsonl", "--workers", 1)


def test_a_document_has_a_title_a_date_and_amounts() -> None:
    facts = extract(Document(**DOCUMENTS[0]))
    assert (facts.title, facts.date) == ("Invoice for paper", datetime.date(2026, 1, 31))
    assert [(one.currency, one.value) for one in facts.amounts] == [
        ("CHF", Decimal("1204.50")),
        ("EUR", Decimal(7)),
    ]


@pytest.mark.slow
def test_from_the_command_line_over_a_file_of_json_lines(tmp_path: Path) -> None:
    bad = {"name": "no text"}
    lines = [json.dumps(document) for document in [*DOCUMENTS, bad]]
    (tmp_path / "docs.jsonl").write_text("\n".join(lines))
    ran = durable_bus(*RUN, "--format", "jsonl", "--with-items", cwd=tmp_path)
    results = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 1
    assert [result["payload"] for result in results[:2]] == FACTS
    assert [result["item"] for result in results] == [*DOCUMENTS, bad]
    assert "text: Field required" in results[2]["error"]


@pytest.mark.slow
def test_from_the_command_line_into_a_table(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="there is no pyarrow for this Python")
    from pyarrow import parquet

    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, DOCUMENTS)))
    assert durable_bus(*RUN, "--format", "parquet", "-o", "facts.parquet", cwd=tmp_path).code == 0
    rows = parquet.read_table(tmp_path / "facts.parquet").to_pylist()
    assert [{name: row[name] for name in FACTS[0]} for row in rows] == FACTS


@pytest.mark.slow
def test_from_python(tmp_path: Path) -> None:
    documents = [Document(**document) for document in DOCUMENTS]
    found = facts_of(documents, str(tmp_path / "facts.db"))
    assert found == [Facts.model_validate(facts) for facts in FACTS]
