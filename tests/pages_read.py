"""The console's pages as a reader sees them: rows of tables, figures, facts. No server and no browser."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
from lxml import html

from durable_bus.web.app import make_app

TOKEN = "a token of tests"
PAGE_BYTES_MAX = 200_000
"""Of each page, whatever the journal holds."""
_DIGITS = re.compile(r"[\d,]+")


def words(element: Any) -> str:
    """What it says, with single spaces."""
    return " ".join(" ".join(element.itertext()).split())


class Page:
    """One that was found."""

    def __init__(self, text: str, at: str = "") -> None:
        self.text = text
        self.at = at
        self.tree = html.fromstring(text)
        (self.main,) = self.tree.xpath("//main")

    def section(self, heading: str) -> Any:
        """The one whose heading begins like that."""
        found = [
            section
            for section in self.main.xpath(".//section[h2]")
            if words(section.find("h2")).startswith(heading)
        ]
        assert len(found) == 1, (heading, [words(one) for one in self.main.xpath(".//h2")])
        return found[0]

    def rows(self, heading: str = "") -> list[dict[str, str]]:
        """Of the table in a section, or of the page's only one: what each cell says, by its column."""
        within = self.section(heading) if heading else self.main
        tables = within.xpath(".//table")
        if not tables:
            return []
        names = [words(cell) for cell in tables[0].xpath("./thead/tr/th")]
        return [
            dict(zip(names, (words(cell) for cell in row.xpath("./th|./td")), strict=True))
            for row in tables[0].xpath("./tbody/tr")
        ]

    def pairs(self, kind: str) -> dict[str, str]:
        """A list of terms, `figures` or `facts`, and what each says."""
        terms = self.main.xpath(f".//dl[@class='{kind}']//dt")
        return {words(term): words(term.getnext()) for term in terms}

    def links(self, text: str) -> list[str]:
        return [str(link.get("href")) for link in self.tree.xpath("//a") if words(link) == text]

    def titles(self, kind: str) -> list[str]:
        """What the parts of a drawing say."""
        return [str(title.text) for title in self.main.xpath(f".//svg[contains(@class, '{kind}')]//title")]

    def notices(self) -> list[str]:
        return [words(one) for one in self.main.xpath(".//p[contains(@class, 'notice')]")]


class Pages:
    """The console of a journal, asked without a network."""

    def __init__(self, journal: Path, *, read_only: bool = False) -> None:
        self.journal = journal
        self.app = make_app(journal, token=TOKEN, host="127.0.0.1", port=80, read_only=read_only)

    def response(self, path: str, **parameters: object) -> httpx.Response:
        """To a GET of a path, whose query may be given by parameters; None: not given."""
        given = {name: str(value) for name, value in parameters.items() if value is not None}
        return asyncio.run(self._response(path, given))

    async def _response(self, path: str, given: dict[str, str]) -> httpx.Response:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers=headers
        ) as client:
            return await client.get(path, params=given or None)

    def get(self, path: str, **parameters: object) -> Page:
        """A page that is there, and is not long."""
        response = self.response(path, **parameters)
        assert response.status_code == 200, (path, parameters, response.text[-600:])
        assert len(response.content) < PAGE_BYTES_MAX, (path, len(response.content))
        return Page(response.text)

    def refusal(self, path: str, **parameters: object) -> tuple[int, str]:
        """The status of a page that is not there, and why."""
        response = self.response(path, **parameters)
        return response.status_code, " ".join(Page(response.text).notices())


def number(text: str) -> int | None:
    """The first one in a text."""
    found = _DIGITS.search(text)
    return None if found is None else int(found[0].replace(",", ""))
