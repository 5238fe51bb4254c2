"""Whatever a payload, a name or an exception holds: pages show it as text, stay short, and run none of it."""

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from everything import LONG_ID
from lxml import etree
from pages_read import PAGE_BYTES_MAX, Pages
from services import Service
from support import Facts

from durable_bus import Json, Text

EIGHT_MIB = 8 * 1024 * 1024
NASTY = {
    "script": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "single": "'><svg onload=alert(1)>",
    "end": "</textarea></pre></title></style></script><h1>mine</h1>",
    "template": "{{ 7 * 7 }} {% raw %} ${7 * 7}",
    "escape": "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "bidi": "user\u202egnp.exe \u2066\u2069\u200f",
    "controls": "".join(map(chr, range(1, 32))) + "\x7f\x85\x9b",
    "odd": "\ufffe\uffff\ufeff\U000e0001\u2028\u2029 \U0001f600",
    "surrogate": '"\\ud800"',  # as JSON the bus refuses it
    "entity": "&lt;b&gt; &amp; &#60;",
    "empty": "",
    "spaces": " \t\n ",
    "long": "x" * 70_000 + "<b>",
    "big": "<i>" + "y" * (EIGHT_MIB - 3),
}
JSONS = [
    '"\\u0000 \\u202e \\ud83d\\ude00"',
    '{"</script>":"<b>"}',
    "[" * 200 + "]" * 200,
    "123456789012345678901234567890",
]


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    journal = tmp_path_factory.mktemp("nasty") / "journal.db"
    with Service(journal, "apps.everything:bus", workers=1) as service:
        service.until_ready()
        with service.client() as client:
            said = [Text(f"say {text}"[:EIGHT_MIB]) for text in NASTY.values()]
            client.start("work", said, buffer_id=LONG_ID).wait(60)
            client.start("echo", [Text(text) for text in NASTY.values()], buffer_id="text").wait(60)
            client.start("echo", [Json.raw(text) for text in JSONS], buffer_id="json").wait(60)
            bad = [Text(f"bad {text}") for name, text in NASTY.items() if name != "big"]
            client.start("work", bad, buffer_id="bad").wait(60)
            for text in NASTY.values():
                if text:
                    client.start("person-asks", [Text(text)])
            Facts(journal).until("SELECT count(*) >= ? FROM messages WHERE to_id = 'person'", len(NASTY) - 1)
    return Pages(journal)


def addresses(pages: Pages) -> list[str]:
    facts = Facts(pages.journal)
    found = ["/", "/buffers", "/messages", "/messages?to=person", "/time", "/workers"]
    for buffer_id, total in facts.rows("SELECT buffer_id, total FROM buffers"):
        found += [f"/buffers/{buffer_id}", *(f"/buffers/{buffer_id}/items/{index}" for index in range(total))]
    found += [f"/messages/{message_id}" for (message_id,) in facts.rows("SELECT message_id FROM messages")]
    columns = "buffer_id, payload, form, json"
    found += [
        f"/questions?sql=SELECT {columns} FROM items",
        "/questions?sql=SELECT message, traceback FROM failures",
    ]
    return found


def test_no_page_is_long_and_none_runs_what_it_shows(nasty: Pages) -> None:
    for address in addresses(nasty):
        response = nasty.response(address)
        assert response.status_code == 200, address
        assert len(response.content) < PAGE_BYTES_MAX, (address, len(response.content))
        assert_safe(response.text, address)


def assert_safe(text: str, address: str) -> None:
    """Nothing of a payload is markup, and nothing moves what stands beside it."""
    tree = etree.HTML(text)
    assert len(tree.xpath("//script")) == 3, address
    assert tree.xpath("//img | //b | //i | //style | //iframe | //object") == [], address
    assert tree.xpath("//@*[starts-with(name(), 'on')]") == [], address
    assert tree.xpath("//h1[. = 'mine']") == []
    hidden = {character for character in text if character in "\x1b\x07\x9b\x7f\u202e\u2066\u2069\u0000"}
    assert hidden == set(), address
    for link in tree.xpath("//@href | //@action"):
        assert link.startswith(("/", "#", "?")), (address, link)
        assert not link.startswith("//"), (address, link)


def test_a_download_is_the_payload_byte_for_byte(nasty: Pages) -> None:
    for index, text in enumerate(NASTY.values()):
        for what in ("payload", "answer"):
            response = nasty.response(f"/buffers/text/items/{index}/{what}")
            assert response.content == text.encode(), (index, what)
            assert response.headers["content-type"] == "text/plain; charset=utf-8"
            assert response.headers["content-disposition"].startswith("attachment")
            assert response.headers["x-content-type-options"] == "nosniff"
    facts = Facts(nasty.journal)
    for index, (text,) in enumerate(facts.rows("SELECT payload FROM items WHERE buffer_id = 'json'")):
        assert nasty.response(f"/buffers/json/items/{index}/payload").text == text
        assert json.loads(text) == json.loads(JSONS[index])


def test_what_is_shown_is_what_it_is(nasty: Pages) -> None:
    for index, (name, text) in enumerate(NASTY.items()):
        if name in ("script", "attribute", "single", "end", "template", "entity"):
            page = nasty.get(f"/buffers/text/items/{index}")
            assert page.main.xpath("string(.//pre)") == text
    page = nasty.get(f"/buffers/text/items/{[*NASTY].index('escape')}")
    assert "\\u001b[31mred" in page.main.xpath("string(.//pre)")
    page = nasty.get(f"/buffers/text/items/{[*NASTY].index('empty')}")
    assert "Empty text." in page.main.text_content()
    page = nasty.get(f"/buffers/text/items/{[*NASTY].index('big')}")
    assert "8,388,608 characters" in page.main.text_content()
    assert "Its first 16,384 characters" in page.main.text_content()


def test_ids_that_nobody_has_are_shown_as_text(nasty: Pages) -> None:
    texts = ["<script>alert(1)</script>", "\x1b[31m", "\u202e", "'", '"', "x" * 3000, "%00", "\udc80"]
    for text in texts:
        for path in ("/buffers/", "/messages/"):
            response = nasty.response(path + quote(text, safe="", errors="surrogateescape"))
            assert response.status_code in (400, 404)
            assert len(response.content) < 5_000
            assert "<script>alert" not in response.text
            assert not set(response.text) & set("\x1b\u202e")


def test_names_are_limited_by_the_bus_so_markup_is_in_none(nasty: Pages) -> None:
    page = nasty.get("/buffers", part=LONG_ID)
    assert [row["Buffer"] for row in page.rows()] == [LONG_ID]
    assert page.links(LONG_ID) == [f"/buffers/{LONG_ID}"]


def test_filters_and_sql_come_back_as_text(nasty: Pages) -> None:
    nasty_text = '"><img src=x onerror=alert(1)></textarea>'
    for path, name in (
        ("/buffers", "part"),
        ("/messages", "to"),
        ("/questions", "sql"),
        ("/questions", "name"),
    ):
        response = nasty.response(path, **{name: nasty_text})
        assert response.status_code in (200, 400, 404)
        assert "<img" not in response.text
    for path, name in (("/buffers", "state"), ("/messages", "state"), ("/", "at")):
        response = nasty.response(path, **{name: nasty_text})
        assert response.status_code == 400
        assert "<img" not in response.text


def test_a_traceback_is_text(nasty: Pages, tmp_path: Path) -> None:
    index = [*NASTY].index("end")
    page = nasty.get(f"/buffers/bad/items/{index}")
    tracebacks = page.main.xpath(".//details//pre")
    assert tracebacks
    assert "<h1>mine</h1>" in tracebacks[-1].text_content()
    assert "Traceback (most recent call last)" in tracebacks[-1].text_content()
