"""Every page, as a browser has it: nothing is complained of, and everybody can use it."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from browser import Browser, violations
from consoles import Console

NARROW = 360
BRIGHT = 200
"""Of a colour's 255; what is dark has less than a fourth of it."""
IN_THE_DARK = 22
"""So many pages are looked at in the dark, too, where only colours differ."""
COLOURS = ("color-contrast", "link-in-text-block")
"""Axe's rules about them."""


class Seen(NamedTuple):
    """A page that was opened on a small screen, and then looked at on a large one."""

    log: list[str]
    htmx: str
    """What it is for JavaScript."""
    width: int
    too_wide: Sequence[str]
    in_the_way: dict[bool, list[str]]
    """In the dark, and not."""


@pytest.fixture(scope="module")
def seen(any_browser: Browser, web: Console, addresses: list[str]) -> dict[str, Seen]:
    """All of them. To open one takes 0.1 s of a core, to look for what stands in the way 0.2 s."""
    any_browser.enter_once(web)
    return {address: look(any_browser, address, number) for number, address in enumerate(addresses)}


def look(browser: Browser, address: str, number: int) -> Seen:
    browser.wide(NARROW, 740)
    browser.dark(False)
    browser.open(address)
    log = browser.log()
    htmx = browser.run("return typeof htmx")
    width = browser.run("return document.scrollingElement.scrollWidth")
    too_wide = browser.run(
        "return [...document.querySelectorAll('body *')]"
        ".filter(e => e.getBoundingClientRect().right > window.innerWidth)"
        ".filter(e => !e.closest('.scroll')).slice(0, 3).map(e => e.outerHTML.slice(0, 120))"
    )
    browser.wide(1200)
    in_the_way = {False: violations(browser)}
    if number < IN_THE_DARK:
        browser.dark(True)
        assert browser.run("return matchMedia('(prefers-color-scheme: dark)').matches")
        in_the_way[True] = violations(browser, *COLOURS)
    return Seen(log, htmx, width, too_wide, in_the_way)


def test_no_page_makes_the_browser_complain(seen: dict[str, Seen]) -> None:
    for address, page in seen.items():
        log = [line for line in page.log if not (address == "/nothing" and "404" in line)]
        assert log == [], address
        assert page.htmx == ("undefined" if address == "/nothing" else "object")


def test_no_page_scrolls_sideways_on_a_small_screen(seen: dict[str, Seen]) -> None:
    assert [(address, page.too_wide) for address, page in seen.items() if page.width > NARROW] == []


def test_pages_are_dark_for_who_likes_that(browser: Browser) -> None:
    for is_dark in (True, False):
        browser.dark(is_dark)
        for address in ("/", "/nothing", "/buffers/held"):
            browser.open(address)
            colours = browser.run(
                "const style = getComputedStyle(document.documentElement);"
                "return [style.backgroundColor, style.color]"
            )
            ground, text = (sum(map(int, colour[4:-1].split(","))) / 3 for colour in colours)
            assert (ground < BRIGHT / 4, text > BRIGHT) == (is_dark, is_dark), colours


@pytest.mark.parametrize("is_dark", [False, True])
def test_nothing_stands_in_anybodys_way(seen: dict[str, Seen], is_dark: bool) -> None:
    pages = {address: page for address, page in seen.items() if is_dark in page.in_the_way}
    assert len(pages) == (IN_THE_DARK if is_dark else len(seen))
    found = {address: page.in_the_way[is_dark] for address, page in pages.items()}
    assert {address: told for address, told in found.items() if told} == {}
