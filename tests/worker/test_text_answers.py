"""An answer is kept character for character, whatever it looks like, and so is the text that asks for it."""

import base64
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from apps import payload_kinds
from support import Facts

from durable_bus import Text
from durable_bus.client.client import Client

ANSWERS = {
    "escape": "\x1b[31mred\x1b[0m",
    "thoughts": "<think>2 + 2 & so on</think> 4",
    "a page": "<html><br>",
    "control characters in tags": "<a>\x01</a>",
    "no characters of XML": "\ufffe \x7f \x0b",
    "ends of lines": "a\r\nb\rc\n\n\t ",
    "a reference": "&amp; &nope; ]]>",
    "beyond the plane": "\U0001f600 e\u0301",
}
IN_BASE64 = {"escape", "control characters in tags", "no characters of XML"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    journal = tmp_path_factory.mktemp("texts") / "journal.db"
    with payload_kinds.bus.running(journal=journal, workers=1) as client:
        yield client


@pytest.mark.parametrize("what", ANSWERS)
def test_text_is_kept_character_for_character_and_the_results_document_carries_it(
    client: Client, what: str
) -> None:
    said, buffer_id = ANSWERS[what], what.replace(" ", "-")
    complete = client.start("echo", [Text(said), Text("neighbour")], buffer_id=buffer_id).wait(60)
    assert complete.successful == 2
    kept = "SELECT payload, form, success FROM results WHERE buffer_id = ? ORDER BY item_index"
    assert Facts(Path(client.journal)).rows(kept, buffer_id) == [
        (said, "text", 1),
        ("neighbour", "text", 1),
    ]
    first, second = ElementTree.fromstring(complete.results)
    assert (second.text, second.get("encoding")) == ("neighbour", None)
    assert first.get("form") is None
    assert first.get("encoding") == ("base64" if what in IN_BASE64 else None)
    text = first.text or ""
    assert (base64.b64decode(text).decode() if what in IN_BASE64 else text) == said
